//! Every metric of this crate: name, unit and help, in one place. No label names a secret or a
//! person.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

pub const PROPOSALS: &str = "conclave_proposals_total";
pub const PROPOSALS_FORWARDED: &str = "conclave_proposals_forwarded_total";
pub const PROPOSAL_RETRIES: &str = "conclave_proposal_retries_total";
pub const PROPOSALS_OVERLOADED: &str = "conclave_proposals_overloaded_total";
pub const ENTRY_COMMANDS: &str = "conclave_entry_commands";
pub const ENTRY_BYTES: &str = "conclave_entry_bytes";
pub const ENTRIES_IN_FLIGHT: &str = "conclave_entries_in_flight";
pub const APPLY_LAG: &str = "conclave_apply_lag_entries";
pub const READ_ROUNDS: &str = "conclave_read_rounds_total";
pub const POLLS_SERVED: &str = "conclave_polls_served_total";
pub const STALENESS_SECONDS: &str = "conclave_staleness_seconds";
pub const CLOCK_SKEW_SECONDS: &str = "conclave_clock_skew_seconds";
pub const DIGESTS_COMPARED: &str = "conclave_digests_compared_total";
pub const DIGESTS_DIFFERING: &str = "conclave_digests_differing_total";
pub const SCRUBS: &str = "conclave_scrubs_total";
pub const AUDIT_BYTES: &str = "conclave_audit_bytes";
pub const MEMBERS_JOINED: &str = "conclave_members_joined_total";

/// Registers help and unit of each with the installed recorder.
pub fn describe() {
    describe_counter!(PROPOSALS, Unit::Count, "Commands that this node's edge proposed");
    describe_counter!(
        PROPOSALS_FORWARDED,
        Unit::Count,
        "Commands that travelled from this node to the leader"
    );
    describe_counter!(
        PROPOSAL_RETRIES,
        Unit::Count,
        "Tries of proposals after the first, with the same id"
    );
    describe_counter!(
        PROPOSALS_OVERLOADED,
        Unit::Count,
        "Commands refused because too many bytes were waiting"
    );
    describe_histogram!(ENTRY_COMMANDS, Unit::Count, "Commands that share one log entry");
    describe_histogram!(ENTRY_BYTES, Unit::Bytes, "Bytes of one log entry's payload");
    describe_gauge!(
        ENTRIES_IN_FLIGHT,
        Unit::Count,
        "Entries proposed by this leader and not yet applied"
    );
    describe_gauge!(
        APPLY_LAG,
        Unit::Count,
        "Entries known to be committed and not yet applied here"
    );
    describe_counter!(
        READ_ROUNDS,
        Unit::Count,
        "Rounds in which a quorum confirmed this leader for reads"
    );
    describe_counter!(
        POLLS_SERVED,
        Unit::Count,
        "Polls that a confirmation within the staleness bound served"
    );
    describe_gauge!(
        STALENESS_SECONDS,
        Unit::Seconds,
        "Age of the last confirmation by a quorum"
    );
    describe_gauge!(
        CLOCK_SKEW_SECONDS,
        Unit::Seconds,
        "How far this node's wall clock is ahead of the voters' median"
    );
    describe_counter!(
        DIGESTS_COMPARED,
        Unit::Count,
        "Digests of this node's state compared with a majority's"
    );
    describe_counter!(
        DIGESTS_DIFFERING,
        Unit::Count,
        "Digests that differed between nodes"
    );
    describe_counter!(SCRUBS, Unit::Count, "Complete rescans of the stored state");
    describe_gauge!(AUDIT_BYTES, Unit::Bytes, "Bytes of audit records kept");
    describe_counter!(
        MEMBERS_JOINED,
        Unit::Count,
        "Empty directories that this leader let in as learners"
    );
    // Counters are there from the start, so that the first event is seen as an increase.
    for name in [
        PROPOSALS,
        PROPOSALS_FORWARDED,
        PROPOSAL_RETRIES,
        PROPOSALS_OVERLOADED,
        READ_ROUNDS,
        POLLS_SERVED,
        DIGESTS_COMPARED,
        DIGESTS_DIFFERING,
        SCRUBS,
        MEMBERS_JOINED,
    ] {
        counter!(name).increment(0);
    }
}
