//! `conclave cluster list|add|promote|remove|replace|transfer|verify`: the members.

use super::{
    Failure,
    connection::Connection,
    input::Confirmation,
    output::{Format, table},
    progress::Progress,
};
use crate::{
    api::conclave::messages::{
        AddMember, ClusterMembers, MemberChanged, MemberEntry, MemberId, Status, TransferLeadership,
        Verification,
    },
    client::{Client, ClientError},
};
use clap::{Args, Subcommand};
use std::{future::Future, time::Duration};

/// Shows and changes the cluster's members.
#[derive(Args, Debug)]
pub struct Cluster {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists the members.
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Adds a node that waits with an empty directory, as a learner.
    Add {
        /// The node's configured name.
        name: String,
        #[command(flatten)]
        long: Long,
    },
    /// Makes a learner that has caught up a voter.
    Promote {
        /// The member's id or name.
        member: String,
        #[command(flatten)]
        long: Long,
    },
    /// Removes a member. Refused when what remains would lose its quorum.
    Remove {
        /// The member's id or name.
        member: String,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        long: Long,
    },
    /// Lets the node that waits with an empty directory take its predecessor's place.
    Replace {
        /// The predecessor's id or name.
        member: String,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        long: Long,
    },
    /// Hands leadership over.
    Transfer {
        /// The id or name of the member to lead; without it, the voter that is furthest.
        member: Option<String>,
        #[command(flatten)]
        long: Long,
    },
    /// Lets every node rescan its stored state, and compares. Fails when they differ. Each node reads
    /// at most 128 MiB a second.
    Verify {
        /// How many seconds to wait for the end.
        #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        wait_s: u64,
        #[command(flatten)]
        connection: Connection,
    },
}

/// Something that may take long.
#[derive(Args, Debug)]
struct Long {
    /// How many seconds to wait for the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    wait_s: u64,
    #[command(flatten)]
    connection: Connection,
}

impl Long {
    fn timeout_ms(&self) -> Option<u64> {
        Some(self.wait_s * 1_000)
    }

    fn patient(&self) -> Result<Client, Failure> {
        patient(&self.connection, self.wait_s)
    }
}

/// A client that waits a little longer than the node does, so that the node says how it ended.
fn patient(connection: &Connection, wait_s: u64) -> Result<Client, Failure> {
    Ok(connection.client()?.with_timeout(Duration::from_secs(wait_s + 5)))
}

impl Cluster {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        match self.action {
            Action::List { connection } => list(&connection.client()?, format).await,
            Action::Add { name, long } => {
                let client = long.patient()?;
                let request = AddMember {
                    name: name.clone(),
                    timeout_ms: long.timeout_ms(),
                };
                let changed = watch_members(
                    format,
                    &client,
                    format!("adding {name}"),
                    client.add_member(&request),
                )
                .await?;
                report(format, changed, |id| format!("{name} is a learner with id {id}"))
            }
            Action::Promote { member, long } => {
                let client = long.patient()?;
                let request = named(&client, &member, &long, Part::Learner).await?;
                let changed = watch_members(
                    format,
                    &client,
                    format!("promoting {member}"),
                    client.promote_member(&request),
                )
                .await?;
                report(format, changed, |id| format!("{id} votes"))
            }
            Action::Remove {
                member,
                confirmation,
                long,
            } => {
                let client = long.patient()?;
                let request = named(&client, &member, &long, Part::Any).await?;
                confirmation.require(&format!("Member {} will be removed for good.", request.id))?;
                let changed = watch_members(
                    format,
                    &client,
                    format!("removing {member}"),
                    client.remove_member(&request),
                )
                .await?;
                report(format, changed, |id| format!("{id} is removed"))
            }
            Action::Replace {
                member,
                confirmation,
                long,
            } => {
                let client = long.patient()?;
                let request = named(&client, &member, &long, Part::Voter).await?;
                confirmation.require(&format!(
                    "Member {} will be removed for good and replaced.",
                    request.id
                ))?;
                let changed = watch_members(
                    format,
                    &client,
                    format!("replacing {member}"),
                    client.replace_member(&request),
                )
                .await?;
                report(format, changed, |id| {
                    format!("{} is replaced by {id}", request.id)
                })
            }
            Action::Transfer { member, long } => {
                let client = long.patient()?;
                let to = match &member {
                    Some(member) => Some(named(&client, member, &long, Part::Voter).await?.id),
                    None => None,
                };
                let request = TransferLeadership {
                    to,
                    timeout_ms: long.timeout_ms(),
                };
                let changed = watch_members(
                    format,
                    &client,
                    "handing over".into(),
                    client.transfer_leadership(&request),
                )
                .await?;
                report(format, changed, |id| format!("{id} leads"))
            }
            Action::Verify { wait_s, connection } => {
                let client = patient(&connection, wait_s)?;
                let look = client.with_timeout(LOOK_TIME);
                let verification = watch(
                    format,
                    "every node rescans its state".into(),
                    client.verify(),
                    async || scanned(&statuses(&look).await),
                )
                .await?;
                report_verification(format, &verification)
            }
        }
    }
}

async fn list(client: &Client, format: Format) -> Result<(), Failure> {
    let members = members_known_best(client).await?;
    format.print(&members, || {
        let rows: Vec<_> = members
            .members
            .iter()
            .map(|member| row(&members, member))
            .collect();
        table(
            [
                "ID",
                "NAME",
                "ADDRESS",
                "PART",
                "DURABLE",
                "BEHIND",
                "LAST HEARD",
                "DISK",
            ],
            &rows,
        )
    })
}

/// The leader knows how far the others are, so its word is taken where it can be asked.
async fn members_known_best(client: &Client) -> Result<ClusterMembers, ClientError> {
    let any = client.members().await?;
    let knows = |members: &ClusterMembers| {
        members
            .members
            .iter()
            .any(|member| member.matched_index.is_some())
    };
    if knows(&any) {
        return Ok(any);
    }
    for position in 0..client.addresses().len() {
        let asked = client
            .at(position)
            .with_timeout(Duration::from_secs(2))
            .members()
            .await;
        if let Some(members) = asked.ok().filter(knows) {
            return Ok(members);
        }
    }
    Ok(any)
}

fn row(members: &ClusterMembers, member: &MemberEntry) -> [String; 8] {
    let part = match (members.leader_id == Some(member.id), member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    let known = |number: Option<u64>, unit: &str| {
        number.map_or_else(|| "-".to_owned(), |number| format!("{number}{unit}"))
    };
    [
        member.id.to_string(),
        member.name.clone(),
        member.address.clone(),
        part.to_owned(),
        known(member.matched_index, ""),
        known(member.behind_bytes, " bytes"),
        known(member.last_acknowledged_ms, " ms ago"),
        match member.disk_below_reserve {
            Some(true) => "below its reserve",
            Some(false) => "has space",
            None => "-",
        }
        .to_owned(),
    ]
}

/// Resolves an id or a name. While a node with an empty directory waits, two members have its name:
/// a voter, and a learner that is to follow it; then `part` tells which one is meant.
async fn named(client: &Client, member: &str, long: &Long, part: Part) -> Result<MemberId, Failure> {
    let timeout_ms = long.timeout_ms();
    if let Ok(id) = member.parse() {
        return Ok(MemberId { id, timeout_ms });
    }
    let mut of_name = client.members().await?.members;
    of_name.retain(|entry| entry.name == member);
    if of_name.len() > 1 {
        of_name.retain(|entry| match part {
            Part::Any => true,
            Part::Voter => entry.voter,
            Part::Learner => !entry.voter,
        });
    }
    let ids: Vec<u64> = of_name.iter().map(|entry| entry.id).collect();
    match ids[..] {
        [id] => Ok(MemberId { id, timeout_ms }),
        [] => Err(ClientError::NotFound(format!("no member is called {member:?}")).into()),
        _ => Err(Failure::Usage(format!(
            "several members are called {member:?} ({ids:?}); name one by its id"
        ))),
    }
}

/// Which of several members of one name is meant.
#[derive(Clone, Copy)]
enum Part {
    Any,
    Voter,
    Learner,
}

/// Waits for a change of membership, showing how far the learners are.
async fn watch_members<T>(
    format: Format,
    client: &Client,
    message: String,
    change: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Failure> {
    let look = client.with_timeout(LOOK_TIME);
    watch(format, message, change, async || {
        behind(&members_known_best(&look).await.ok()?)
    })
    .await
}

/// Waits for something long, showing now and then how far it is. Each look is an operation with a
/// record of its own, so there are few, and none where nobody sees what it finds.
async fn watch<T>(
    format: Format,
    message: String,
    work: impl Future<Output = Result<T, ClientError>>,
    look: impl AsyncFn() -> Option<String>,
) -> Result<T, Failure> {
    let progress = Progress::start(format, message.clone());
    let mut work = std::pin::pin!(work);
    if !progress.is_shown() {
        return Ok(work.await?);
    }
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            result = &mut work => return Ok(result?),
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            result = &mut work => return Ok(result?),
            found = look() => {
                let line = found.map_or_else(|| message.clone(), |found| format!("{message}: {found}"));
                progress.say(line);
            }
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a look may take: a node that is down must not hold up the line.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// How each known node stands, of those that answer.
async fn statuses(client: &Client) -> Vec<Status> {
    let asked = (0..client.addresses().len()).map(|position| {
        let node = client.at(position);
        async move { node.status().await.ok() }
    });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// How far each node is with a verification.
fn scanned(statuses: &[Status]) -> Option<String> {
    let lines: Vec<String> = statuses
        .iter()
        .filter_map(|status| {
            let progress = status.verification?;
            Some(format!(
                "{} read {} of about {} MiB",
                status.node_name,
                mebibytes(progress.scanned_bytes),
                mebibytes(progress.total_bytes)
            ))
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn behind(members: &ClusterMembers) -> Option<String> {
    let furthest = members
        .members
        .iter()
        .filter_map(|member| member.matched_index)
        .max()?;
    let learners = members.members.iter().filter(|member| !member.voter);
    let lines: Vec<String> = learners
        .map(|member| {
            if let (Some(sent), Some(total)) = (member.snapshot_sent_bytes, member.snapshot_total_bytes) {
                let (sent, total) = (mebibytes(sent), mebibytes(total));
                return format!("{} got {sent} of {total} MiB of a snapshot", member.name);
            }
            let entries = furthest.saturating_sub(member.matched_index.unwrap_or(0));
            format!("{} is {entries} entries behind", member.name)
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn report(format: Format, changed: MemberChanged, text: impl FnOnce(u64) -> String) -> Result<(), Failure> {
    format.print(&changed, || text(changed.id))
}

fn report_verification(format: Format, verification: &Verification) -> Result<(), Failure> {
    let short = |digest: &Option<String>| {
        digest
            .as_deref()
            .map_or("-", |digest| digest.get(..16).unwrap_or(digest))
            .to_owned()
    };
    format.print(verification, || {
        let rows: Vec<_> = verification
            .nodes
            .iter()
            .map(|node| {
                [
                    node.id.to_string(),
                    node.name.clone(),
                    node.index
                        .map_or_else(|| "-".to_owned(), |index| index.to_string()),
                    short(&node.scanned),
                    short(&node.running),
                    node.error.clone().unwrap_or_else(|| "scanned".to_owned()),
                ]
            })
            .collect();
        table(["ID", "NAME", "INDEX", "SCANNED", "RUNNING", "RESULT"], &rows)
    })?;
    if verification.agreed {
        if format == Format::Text {
            super::output::write_line("All nodes agree.")?;
        }
        return Ok(());
    }
    Err(Failure::Other(
        "the nodes do not all agree, or could not all be scanned".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conclave::messages::VerificationProgress;

    #[test]
    fn progress_is_told_in_figures() {
        let learner = |matched_index| MemberEntry {
            id: 4,
            name: "node-4".into(),
            address: "a:1".into(),
            voter: false,
            matched_index,
            last_acknowledged_ms: None,
            behind_bytes: None,
            disk_below_reserve: None,
            snapshot_sent_bytes: None,
            snapshot_total_bytes: None,
        };
        let leader = MemberEntry {
            id: 1,
            name: "node-1".into(),
            voter: true,
            ..learner(Some(100))
        };
        let members = |learner: MemberEntry| {
            let members = serde_json::json!({
                "cluster_id": "c", "leader_id": 1, "term": 2, "joint": false,
                "members": [leader.clone(), learner]
            });
            serde_json::from_value::<ClusterMembers>(members).expect("members")
        };
        assert_eq!(
            behind(&members(learner(Some(58)))).as_deref(),
            Some("node-4 is 42 entries behind")
        );
        assert_eq!(
            behind(&members(learner(None))).as_deref(),
            Some("node-4 is 100 entries behind")
        );
        let receiving = MemberEntry {
            snapshot_sent_bytes: Some(3 << 20),
            snapshot_total_bytes: Some(40 << 20),
            ..learner(None)
        };
        assert_eq!(
            behind(&members(receiving)).as_deref(),
            Some("node-4 got 3 of 40 MiB of a snapshot")
        );

        let status = |scanned_bytes: Option<u64>| {
            let mut status = super::super::status::tests::status("digest");
            status.verification = scanned_bytes.map(|scanned_bytes| VerificationProgress {
                scanned_bytes,
                total_bytes: 300 << 20,
            });
            status
        };
        assert_eq!(scanned(&[status(None)]), None);
        assert_eq!(
            scanned(&[status(Some(7 << 20)), status(None)]).as_deref(),
            Some("node-1 read 7 of about 300 MiB")
        );
    }
}
