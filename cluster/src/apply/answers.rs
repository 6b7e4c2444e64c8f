//! How much is answered. A batch of small commands can have an enormous answer, so that answers are
//! bounded three times: of one command (by a refusal, the same on every node), of one entry, and of
//! one run of entries. What an entry's or a run's bound leaves out was applied all the same; whoever
//! waits for it asks again with the same id, and is told the remembered outcome.
//!
//! Invariant: nothing in here changes the state, because nodes differ in who waits on them.

use super::machine::Stop;
use crate::command::{Done, Outcome, Refusal};

/// The most bytes of the answer to one command, unless a single step's answer is larger.
pub const COMMAND_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of the answers to one entry, or one larger command's.
const ENTRY_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of the answers to one run of entries.
const RUN_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What may still be answered in a run of entries.
pub(crate) struct RunAnswers {
    left_bytes: usize,
}

impl RunAnswers {
    /// The whole bound.
    pub(crate) fn new() -> Self {
        Self {
            left_bytes: RUN_ANSWER_BYTES_MAX,
        }
    }

    /// What may be answered to one entry: nothing where nobody waits.
    pub(super) fn of_entry(&mut self, answered: bool) -> EntryAnswers<'_> {
        EntryAnswers {
            run: self,
            bytes: 0,
            answered,
        }
    }
}

/// What may still be answered to an entry.
pub(super) struct EntryAnswers<'r> {
    run: &'r mut RunAnswers,
    bytes: usize,
    answered: bool,
}

impl EntryAnswers<'_> {
    /// The outcome, or `None` where it is too large beside those before it.
    pub(super) fn admit(&mut self, outcome: Outcome) -> Option<Outcome> {
        let bytes = outcome.large_bytes();
        let fits_entry = self.bytes == 0 || self.bytes + bytes <= ENTRY_ANSWER_BYTES_MAX;
        if !self.answered || !fits_entry || bytes > self.run.left_bytes {
            return None;
        }
        self.bytes += bytes;
        self.run.left_bytes -= bytes;
        Some(outcome)
    }
}

/// The answers of one command, as they come.
#[derive(Default)]
pub(super) struct CommandAnswers {
    answers: Vec<Done>,
    bytes: usize,
}

impl CommandAnswers {
    /// Takes the next step's answer, unless that makes the whole too large.
    pub(super) fn push(&mut self, answer: Done) -> Result<(), Stop> {
        let bytes = answer.large_bytes();
        if self.bytes > 0 && self.bytes + bytes > COMMAND_ANSWER_BYTES_MAX {
            return Err(Refusal::AnswerTooLarge.into());
        }
        self.bytes += bytes;
        self.answers.push(answer);
        Ok(())
    }

    /// All of them.
    pub(super) fn into_answers(self) -> Vec<Done> {
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests::fixtures::view_of;

    fn answer(bytes: usize) -> Done {
        Done::Secret(Box::new(view_of(bytes)))
    }

    fn outcome(bytes: usize) -> Outcome {
        Outcome::Done(vec![answer(bytes)])
    }

    #[test]
    fn an_entry_is_answered_up_to_its_bound_or_one_larger_command() {
        let mut run = RunAnswers::new();
        let mut entry = run.of_entry(true);
        assert!(entry.admit(outcome(ENTRY_ANSWER_BYTES_MAX / 2)).is_some());
        assert!(entry.admit(outcome(ENTRY_ANSWER_BYTES_MAX)).is_none());
        // What is small goes on being answered.
        assert!(entry.admit(Outcome::Done(vec![Done::Recorded])).is_some());
        let mut entry = run.of_entry(true);
        assert!(entry.admit(outcome(ENTRY_ANSWER_BYTES_MAX + 1)).is_some());
        assert!(entry.admit(outcome(1)).is_none());
    }

    #[test]
    fn a_run_is_answered_up_to_its_bound() {
        let mut run = RunAnswers::new();
        let answered = (0..10)
            .filter(|_| {
                run.of_entry(true)
                    .admit(outcome(ENTRY_ANSWER_BYTES_MAX))
                    .is_some()
            })
            .count();
        assert_eq!(answered, RUN_ANSWER_BYTES_MAX / ENTRY_ANSWER_BYTES_MAX);
    }

    #[test]
    fn nobody_waits() {
        let mut run = RunAnswers::new();
        assert!(run.of_entry(false).admit(outcome(1)).is_none());
    }

    #[test]
    fn a_commands_answers_are_bounded_except_for_a_single_one() {
        let mut answers = CommandAnswers::default();
        assert!(answers.push(Done::Recorded).is_ok());
        assert!(answers.push(answer(COMMAND_ANSWER_BYTES_MAX + 1)).is_ok());
        assert!(answers.push(Done::Recorded).is_err(), "nothing fits beside it");
        assert_eq!(answers.into_answers().len(), 2);
    }
}
