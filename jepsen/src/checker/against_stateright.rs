//! Our search of linearizability says the same as stateright's `LinearizabilityTester`, over random
//! histories of a secret: true ones, and ones with a wrong answer.

use super::linearizability::{self, Entry, Search};
use crate::{
    history::{Answer, Call},
    model::Secret,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

impl SequentialSpec for Secret {
    type Op = Call;
    type Ret = Answer;

    fn invoke(&mut self, call: &Call) -> Answer {
        let (answer, next) = self.apply(call);
        if let Some(next) = next {
            *self = next;
        }
        answer
    }
}

const THREADS: usize = 3;
const EVENTS: usize = 22;

/// What a thread does when.
#[derive(Clone, Debug)]
enum Event {
    Invoke(usize, Call),
    Return(usize, Answer),
}

/// Where a thread of a simulated run is.
enum Thread {
    Idle,
    Invoked(Call),
    Effective(Answer),
    /// It never hears what became of its last call.
    Lost,
}

#[test]
fn both_say_the_same_of_random_histories() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..1_500 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut events = simulate(&mut random);
        if random.random_range(0..3) > 0 {
            spoil(&mut events, &mut random);
        }
        let theirs = stateright(&events);
        let ours = linearizability::search(&entries(&events));
        assert_ne!(ours, Search::GaveUp);
        assert_eq!(
            ours == Search::Linearizable,
            theirs,
            "seed {seed}: {events:?} gave {ours:?}"
        );
        if theirs {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    assert!(
        accepted > 300 && refused > 300,
        "{accepted} accepted, {refused} refused"
    );
}

/// A history that one copy of a secret gave.
fn simulate(random: &mut StdRng) -> Vec<Event> {
    let mut secret = Secret::default();
    let mut threads: Vec<Thread> = (0..THREADS).map(|_| Thread::Idle).collect();
    let mut events = Vec::new();
    while events.len() < EVENTS && !threads.iter().all(|thread| matches!(thread, Thread::Lost)) {
        let number = random.random_range(0..THREADS);
        let thread = &mut threads[number];
        *thread = match std::mem::replace(thread, Thread::Lost) {
            Thread::Idle => {
                let call = any_call(random);
                events.push(Event::Invoke(number, call.clone()));
                Thread::Invoked(call)
            }
            Thread::Invoked(call) if call.writes() && random.random_range(0..12) == 0 => {
                // It may have happened or not.
                if random.random_range(0..2) == 0 {
                    secret.invoke(&call);
                }
                Thread::Lost
            }
            Thread::Invoked(call) => Thread::Effective(secret.invoke(&call)),
            Thread::Effective(answer) => {
                events.push(Event::Return(number, answer));
                Thread::Idle
            }
            Thread::Lost => Thread::Lost,
        };
    }
    events
}

fn any_call(random: &mut StdRng) -> Call {
    let value = random.random_range(1..4);
    let version = random.random_range(1..5);
    match random.random_range(0..14) {
        0..4 => Call::Put { value },
        4 => Call::CreateVersion { version, value },
        5..7 => Call::Activate { version },
        7..9 => Call::Get,
        9 => Call::GetVersion { version },
        10 => Call::Poll { version },
        11 => Call::Info,
        12 => Call::DeleteVersion { version },
        _ => Call::Delete,
    }
}

/// Gives one call the answer of another.
fn spoil(events: &mut [Event], random: &mut StdRng) {
    let answers: Vec<Answer> = events
        .iter()
        .filter_map(|event| match event {
            Event::Return(_, answer) => Some(answer.clone()),
            Event::Invoke(..) => None,
        })
        .collect();
    let mut returns: Vec<&mut Answer> = events
        .iter_mut()
        .filter_map(|event| match event {
            Event::Return(_, answer) => Some(answer),
            Event::Invoke(..) => None,
        })
        .collect();
    if let Some(other) = answers.choose(random) {
        let position = random.random_range(0..returns.len());
        *returns[position] = other.clone();
    }
}

fn stateright(events: &[Event]) -> bool {
    let mut tester = LinearizabilityTester::new(Secret::default());
    for event in events {
        let taken = match event {
            Event::Invoke(thread, call) => tester.on_invoke(*thread, call.clone()),
            Event::Return(thread, answer) => tester.on_return(*thread, answer.clone()),
        };
        taken.expect("threads invoke and return in turn");
    }
    tester.is_consistent()
}

/// As our search wants them. What never returned and only reads says nothing, and is left out.
fn entries(events: &[Event]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut under_way = [None; THREADS];
    for (at_ns, event) in (0..).zip(events) {
        match event {
            Event::Invoke(thread, call) => {
                under_way[*thread] = Some(entries.len());
                entries.push(Entry {
                    id: entries.len(),
                    call: call.clone(),
                    from_ns: at_ns,
                    until: None,
                });
            }
            Event::Return(thread, answer) => {
                let entry = under_way[*thread].take().expect("it was invoked");
                entries[entry].until = Some((at_ns, answer.clone()));
            }
        }
    }
    entries.retain(|entry| entry.until.is_some() || entry.call.writes());
    entries
}
