//! Random commands do what a simple model does. The model is written for plainness: whole sets of
//! numbers instead of ranges, a copy of everything instead of layers, no index of anything.

use super::fixtures::*;
use crate::{
    command::{
        Activation, Command, Done, Expected, Look, NumberChoice, Operation, Outcome, Precondition, Put,
        Refusal, SameValue, Step, VersionChange, Which,
    },
    model::{EndAction, Place, SecretId, SecretSettings, Version, VersionState},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Default)]
struct Model {
    now_ms: u64,
    places: BTreeMap<Place, ModelPlace>,
    secrets: BTreeMap<SecretId, ModelSecret>,
    spent: BTreeSet<SecretId>,
}

#[derive(Clone, Default)]
struct ModelPlace {
    secret: Option<SecretId>,
    /// Every number that was used here by a secret that left, with that secret.
    used: BTreeSet<(SecretId, u32)>,
}

#[derive(Clone, Default)]
struct ModelSecret {
    place: Option<Place>,
    deleted: Option<(Place, u64)>,
    versions: BTreeMap<u32, ModelVersion>,
    used: BTreeSet<u32>,
    active: Option<u32>,
    settings: SecretSettings,
    revision: u64,
}

#[derive(Clone)]
struct ModelVersion {
    state: VersionState,
    value: Option<u8>,
    expires_ms: Option<u64>,
    left: Option<u32>,
    on_end: EndAction,
}

/// What a step answers, as far as the model says.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Put {
        version: u32,
        stored: bool,
        active: bool,
    },
    Value {
        version: u32,
        value: u8,
        active: bool,
        left: Option<u32>,
    },
    NotModified(u32),
}

impl ModelVersion {
    fn is_available(&self, now_ms: u64) -> bool {
        self.state == VersionState::Enabled
            && self.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms)
            && self.left != Some(0)
    }

    fn shown(&self, now_ms: u64) -> VersionState {
        match (self.state, self.is_available(now_ms), self.on_end) {
            (VersionState::Enabled, false, EndAction::Disable) => VersionState::Disabled,
            (VersionState::Enabled, false, _) => VersionState::Deleted { until_ms: None },
            (state, _, _) => state,
        }
    }

    fn destroy(&mut self) {
        self.state = VersionState::Destroyed;
        self.value = None;
    }
}

impl Model {
    fn command(&mut self, command: &Command) -> Result<Vec<Answer>, (u16, Refusal)> {
        let mut answers = Vec::new();
        for (number, guard) in (0..).zip(&command.guards) {
            let mut copy = self.clone();
            answers.push(copy.step(guard).map_err(|refusal| (number, refusal))?);
            *self = copy;
        }
        let mut copy = self.clone();
        for (number, step) in (command.guards.len() as u16..).zip(&command.steps) {
            answers.push(copy.step(step).map_err(|refusal| (number, refusal))?);
        }
        *self = copy;
        Ok(answers)
    }

    fn step(&mut self, step: &Step) -> Result<Answer, Refusal> {
        for (number, precondition) in (0..).zip(&step.preconditions) {
            let at = |place| self.places.get(place).and_then(|place: &ModelPlace| place.secret);
            let holds = match precondition {
                Precondition::Absent { place } => at(place).is_none(),
                Precondition::Present { place, secret } => {
                    at(place).is_some_and(|there| secret.is_none_or(|secret| secret == there))
                }
                Precondition::AtRevision { secret, revision } => self
                    .secrets
                    .get(secret)
                    .is_some_and(|secret| secret.revision == *revision),
                other => unreachable!("{other:?} is not generated"),
            };
            if !holds {
                return Err(Refusal::Precondition { number });
            }
        }
        match &step.operation {
            Operation::Create {
                place,
                secret,
                create,
            } => {
                if self.at(*place).is_some() || self.is_known(*secret) {
                    return Err(Refusal::AlreadyExists);
                }
                self.make(*place, *secret, &create.settings);
                self.touch(*secret);
                Ok(Answer::Done)
            }
            Operation::Put(put) => self.put(put),
            Operation::Activate { at, version } => {
                let id = self.living(*at)?;
                self.available(id, Which::Number(*version))?;
                if self.secrets[&id].active != Some(version.get()) {
                    self.get(id).active = Some(version.get());
                    self.touch(id);
                }
                Ok(Answer::Done)
            }
            Operation::ChangeVersions {
                at,
                versions,
                change,
                spare_active,
                refuse_destroyed,
            } => {
                let id = self.living(*at)?;
                self.change(id, versions, *change, (*spare_active, *refuse_destroyed))
            }
            Operation::Delete { at, recoverable_ms } => {
                let id = self.any(*at)?;
                self.delete(id, *recoverable_ms)
            }
            Operation::Restore { secret, place } => self.restore(*secret, *place),
            Operation::Move { at, to, .. } => {
                let id = self.living(*at)?;
                let from = self.secrets[&id].place.unwrap();
                if from != *to {
                    if self.at(*to).is_some() {
                        return Err(Refusal::AlreadyExists);
                    }
                    if !self.may_arrive(id, *to) {
                        return Err(Refusal::NumbersOverlap);
                    }
                    self.leave(id, from);
                    self.arrive(id, *to);
                }
                self.touch(id);
                Ok(Answer::Done)
            }
            Operation::Configure { at, settings, .. } => {
                let id = self.living(*at)?;
                if let Some(settings) = settings {
                    self.get(id).settings = settings.clone();
                }
                self.touch(id);
                Ok(Answer::Done)
            }
            Operation::ConfigureVersion {
                at,
                version,
                lifetime_ms,
                disclosures_left,
                on_end,
                ..
            } => {
                let id = self.living(*at)?;
                let now_ms = self.now_ms;
                self.version(id, *version)?;
                let row = self.get(id).versions.get_mut(&version.get()).unwrap();
                if row.value.is_none() {
                    return Err(Refusal::NotAvailable {
                        version: *version,
                        state: row.state,
                    });
                }
                if let Some(lifetime_ms) = lifetime_ms {
                    row.expires_ms = lifetime_ms.map(|lifetime_ms| now_ms + lifetime_ms);
                }
                if let Some(left) = disclosures_left {
                    row.left = *left;
                }
                if let Some(on_end) = on_end {
                    row.on_end = *on_end;
                }
                self.touch(id);
                Ok(Answer::Done)
            }
            Operation::Disclose {
                at,
                which,
                unless_active_is,
            } => {
                let id = self.living(*at)?;
                self.disclose(id, *which, *unless_active_is)
            }
            Operation::Look(Look::Secret(at)) => self.any(*at).map(|_| Answer::Done),
            other => unreachable!("{other:?} is not generated"),
        }
    }

    fn put(&mut self, put: &Put) -> Result<Answer, Refusal> {
        let exists = match self.at(put.place) {
            Some(secret) if secret != put.secret => return Err(Refusal::OtherSecret { secret }),
            there => there.is_some(),
        };
        let settings = match (exists, &put.create) {
            (true, _) => self.secrets[&put.secret].settings.clone(),
            (false, Some(create)) => create.settings.clone(),
            (false, None) => return Err(Refusal::NotFound),
        };
        let used = if exists {
            self.secrets[&put.secret].used.clone()
        } else {
            BTreeSet::new()
        };
        let latest = used.last().copied().unwrap_or(0);
        match put.check_and_set {
            None if settings.check_and_set_required => return Err(Refusal::CheckAndSetRequired),
            Some(expected) if expected != latest => return Err(Refusal::CheckAndSet { latest }),
            _ => {}
        }
        let value = put.digest.mac[0];
        if exists && put.same_value == SameValue::KeepActiveOrLatest {
            let secret = &self.secrets[&put.secret];
            let latest = secret
                .versions
                .iter()
                .rev()
                .find(|(_, row)| row.value.is_some())
                .map(|(number, _)| *number);
            for candidate in [secret.active, latest].into_iter().flatten() {
                let row = secret.versions.get(&candidate);
                if row.is_some_and(|row| row.is_available(self.now_ms) && row.value == Some(value)) {
                    let active = secret.active == Some(candidate);
                    return Ok(Answer::Put {
                        version: candidate,
                        stored: false,
                        active,
                    });
                }
            }
        }
        let here = self.places.get(&put.place).cloned().unwrap_or_default();
        let mut all: BTreeSet<u32> = here.used.iter().map(|(_, number)| *number).collect();
        all.extend(&used);
        let number = match put.number {
            NumberChoice::Next => all.last().map_or(1, |last| last + 1),
            NumberChoice::Exactly(version) if all.contains(&version.get()) => {
                return Err(Refusal::NumberUsed { version });
            }
            NumberChoice::Exactly(version) => version.get(),
        };
        if !exists {
            if self.is_known(put.secret) {
                return Err(Refusal::NotFound);
            }
            self.make(put.place, put.secret, &settings);
        }
        let now_ms = self.now_ms;
        let secret = self.get(put.secret);
        let active = match put.activation {
            Activation::Always => true,
            Activation::Never => false,
            Activation::WhenNoneActive => secret.active.is_none(),
        };
        secret.used.insert(number);
        if active {
            secret.active = Some(number);
        }
        let row = ModelVersion {
            state: VersionState::Enabled,
            value: Some(value),
            expires_ms: put
                .lifetime_ms
                .or(settings.default_lifetime_ms)
                .map(|lifetime_ms| now_ms + lifetime_ms),
            left: put.disclosures.or(settings.default_disclosures),
            on_end: put.on_end.unwrap_or(settings.default_on_end),
        };
        secret.versions.insert(number, row);
        if let Some(keep) = settings.keep_versions {
            while secret.versions.values().filter(|row| row.value.is_some()).count() > keep as usize {
                let oldest = secret
                    .versions
                    .iter()
                    .find(|(other, row)| {
                        row.value.is_some() && **other != number && secret.active != Some(**other)
                    })
                    .map(|(other, _)| *other);
                let Some(oldest) = oldest else { break };
                secret.versions.remove(&oldest);
            }
        }
        self.touch(put.secret);
        Ok(Answer::Put {
            version: number,
            stored: true,
            active,
        })
    }

    fn change(
        &mut self,
        id: SecretId,
        versions: &[Version],
        change: VersionChange,
        (spare_active, refuse_destroyed): (bool, bool),
    ) -> Result<Answer, Refusal> {
        use VersionState::{Deleted, Destroyed, Disabled, Enabled};
        let now_ms = self.now_ms;
        let secret = &self.secrets[&id];
        if spare_active
            && let Some(&active) = versions
                .iter()
                .find(|version| secret.active == Some(version.get()))
        {
            return Err(Refusal::ActiveVersion { version: active });
        }
        let mut any = false;
        for &version in versions {
            let destroyed_is_fine =
                !refuse_destroyed && matches!(change, VersionChange::Destroy | VersionChange::Delete { .. });
            match self.version(id, version) {
                Err(Refusal::NotAvailable { .. }) if destroyed_is_fine => continue,
                Err(refusal) => return Err(refusal),
                Ok(_) => {}
            }
            let secret = self.get(id);
            let row = secret.versions.get_mut(&version.get()).unwrap();
            let refused = Err(Refusal::NotAvailable {
                version,
                state: row.state,
            });
            let in_time = !matches!(row.state, Deleted { until_ms: Some(until_ms) } if until_ms <= now_ms);
            let before = row.state;
            row.state = match (change, row.state) {
                (_, Destroyed) if destroyed_is_fine => continue,
                (_, Destroyed) => return refused,
                (VersionChange::Destroy, _) => {
                    row.destroy();
                    if secret.active == Some(version.get()) {
                        secret.active = None;
                    }
                    any = true;
                    continue;
                }
                (VersionChange::Delete { .. }, Deleted { .. }) => continue,
                (VersionChange::Delete { recoverable_ms }, _) => Deleted {
                    until_ms: recoverable_ms.map(|ms| now_ms + ms),
                },
                (VersionChange::Disable, Deleted { .. }) => return refused,
                (VersionChange::Disable, _) => Disabled,
                (VersionChange::Undelete, Disabled) => Disabled,
                (VersionChange::Enable | VersionChange::Undelete, Deleted { .. }) if !in_time => {
                    return refused;
                }
                (VersionChange::Enable | VersionChange::Undelete, _) => Enabled,
            };
            any |= before != row.state;
        }
        if any {
            self.touch(id);
        }
        Ok(Answer::Done)
    }

    fn delete(&mut self, id: SecretId, recoverable_ms: Option<u64>) -> Result<Answer, Refusal> {
        let secret = self.secrets[&id].clone();
        if secret.settings.protected {
            return Err(Refusal::Protected);
        }
        match recoverable_ms {
            Some(recoverable_ms) => {
                let place = secret.place.ok_or(Refusal::NotFound)?;
                self.leave(id, place);
                let until_ms = self.now_ms + recoverable_ms;
                let secret = self.get(id);
                secret.place = None;
                secret.deleted = Some((place, until_ms));
                self.touch(id);
            }
            None => {
                if let Some(place) = secret.place {
                    self.leave(id, place);
                }
                self.secrets.remove(&id);
                self.spent.insert(id);
            }
        }
        Ok(Answer::Done)
    }

    fn restore(&mut self, id: SecretId, place: Place) -> Result<Answer, Refusal> {
        let secret = self.secrets.get(&id).ok_or(Refusal::NotFound)?;
        let (from, until_ms) = secret.deleted.ok_or(Refusal::AlreadyExists)?;
        if from != place || until_ms <= self.now_ms {
            return Err(Refusal::NotRestorable);
        }
        if self.at(place).is_some() {
            return Err(Refusal::AlreadyExists);
        }
        if !self.may_arrive(id, place) {
            return Err(Refusal::NumbersOverlap);
        }
        self.get(id).deleted = None;
        self.arrive(id, place);
        self.touch(id);
        Ok(Answer::Done)
    }

    fn disclose(&mut self, id: SecretId, which: Which, unless: Option<Version>) -> Result<Answer, Refusal> {
        let now_ms = self.now_ms;
        let active = self.secrets[&id].active;
        if let Some(known) = unless.map(Version::get).filter(|known| active == Some(*known))
            && self.secrets[&id]
                .versions
                .get(&known)
                .is_some_and(|row| row.is_available(now_ms))
        {
            return Ok(Answer::NotModified(known));
        }
        let version = self.available(id, which)?;
        let secret = self.get(id);
        let row = secret.versions.get_mut(&version).unwrap();
        let value = row.value.unwrap();
        row.left = row.left.map(|left| left - 1);
        let left = row.left;
        let mut ended = false;
        if left == Some(0) {
            ended = true;
            match row.on_end {
                EndAction::Disable => row.state = VersionState::Disabled,
                EndAction::Delete => row.state = VersionState::Deleted { until_ms: None },
                EndAction::Destroy => {
                    row.destroy();
                    if active == Some(version) {
                        secret.active = None;
                    }
                }
            }
        }
        if ended {
            self.touch(id);
        }
        Ok(Answer::Value {
            version,
            value,
            active: active == Some(version),
            left,
        })
    }

    fn available(&self, id: SecretId, which: Which) -> Result<u32, Refusal> {
        let secret = &self.secrets[&id];
        let mut downwards = secret.versions.iter().rev();
        let number = match which {
            Which::Number(version) => {
                self.version(id, version)?;
                Some(version.get())
            }
            Which::Active => secret.active,
            Which::Latest => downwards
                .find(|(_, row)| row.value.is_some())
                .map(|(number, _)| *number),
            Which::LatestEnabled => downwards
                .find(|(_, row)| row.is_available(self.now_ms))
                .map(|(number, _)| *number),
        };
        let number = number.ok_or(Refusal::VersionNotFound)?;
        let row = &secret.versions[&number];
        if row.is_available(self.now_ms) {
            Ok(number)
        } else {
            Err(Refusal::NotAvailable {
                version: version(number),
                state: row.shown(self.now_ms),
            })
        }
    }

    fn version(&self, id: SecretId, version: Version) -> Result<(), Refusal> {
        let secret = &self.secrets[&id];
        if secret.versions.contains_key(&version.get()) {
            Ok(())
        } else if secret.used.contains(&version.get()) {
            Err(Refusal::NotAvailable {
                version,
                state: VersionState::Destroyed,
            })
        } else {
            Err(Refusal::VersionNotFound)
        }
    }

    fn any(&self, at: Expected) -> Result<SecretId, Refusal> {
        let id = match at {
            Expected::At(place) => self.at(place),
            Expected::Id(id) => Some(id).filter(|id| self.secrets.contains_key(id)),
        };
        id.ok_or(Refusal::NotFound)
    }

    fn living(&self, at: Expected) -> Result<SecretId, Refusal> {
        self.any(at).and_then(|id| {
            if self.secrets[&id].deleted.is_none() {
                Ok(id)
            } else {
                Err(Refusal::NotFound)
            }
        })
    }

    fn at(&self, place: Place) -> Option<SecretId> {
        self.places.get(&place).and_then(|place| place.secret)
    }

    fn is_known(&self, id: SecretId) -> bool {
        self.secrets.contains_key(&id) || self.spent.contains(&id)
    }

    fn get(&mut self, id: SecretId) -> &mut ModelSecret {
        self.secrets.get_mut(&id).unwrap()
    }

    fn touch(&mut self, id: SecretId) {
        self.get(id).revision += 1;
    }

    fn make(&mut self, place: Place, id: SecretId, settings: &SecretSettings) {
        self.secrets.insert(
            id,
            ModelSecret {
                settings: settings.clone(),
                ..ModelSecret::default()
            },
        );
        self.arrive(id, place);
    }

    fn arrive(&mut self, id: SecretId, place: Place) {
        self.places.entry(place).or_default().secret = Some(id);
        self.get(id).place = Some(place);
    }

    fn leave(&mut self, id: SecretId, place: Place) {
        let used = self.secrets[&id].used.clone();
        let place = self.places.get_mut(&place).unwrap();
        place.secret = None;
        place.used.extend(used.into_iter().map(|number| (id, number)));
    }

    fn may_arrive(&self, id: SecretId, place: Place) -> bool {
        let used = &self.secrets[&id].used;
        let there = self.places.get(&place).cloned().unwrap_or_default();
        there
            .used
            .iter()
            .all(|(other, number)| *other == id || !used.contains(number))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does(entries in prop::collection::vec((0_u64..40, commands()), 1..60)) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        for (pause_ms, command) in entries {
            bench.time_ms += pause_ms;
            model.now_ms = bench.time_ms;
            let outcome = bench.command(&command);
            let expected = model.command(&command);
            let answered = match outcome {
                Outcome::Done(answers) => Ok(answers.into_iter().map(simplified).collect()),
                Outcome::Refused { step, refusal } => Err((step, refusal)),
            };
            prop_assert_eq!(answered, expected, "{:?}", command);
        }
        compare(&bench, &model)?;
        bench.scanned_digest();
    }
}

fn simplified(done: Done) -> Answer {
    match done {
        Done::Version {
            version,
            stored,
            active,
            ..
        } => Answer::Put {
            version: version.get(),
            stored,
            active,
        },
        Done::Disclosed(disclosed) => Answer::Value {
            version: disclosed.version.get(),
            value: disclosed.value.ciphertext[0],
            active: disclosed.active,
            left: disclosed.disclosures_left,
        },
        Done::NotModified { version } => Answer::NotModified(version.get()),
        Done::Done | Done::Secret(_) => Answer::Done,
        other => unreachable!("{other:?} is not generated"),
    }
}

fn compare(bench: &Bench, model: &Model) -> Result<(), TestCaseError> {
    let view = bench.store.view();
    for byte in 1..=PLACES {
        let there = view.place(&place(byte)).unwrap().and_then(|place| place.secret);
        prop_assert_eq!(there, model.at(place(byte)));
    }
    for byte in 1..=SECRETS {
        let seen = view.secret_view(&id(byte)).unwrap();
        prop_assert_eq!(seen.is_some(), model.secrets.contains_key(&id(byte)));
        let (Some(seen), Some(expected)) = (seen, model.secrets.get(&id(byte))) else {
            continue;
        };
        prop_assert_eq!(seen.place, expected.place.filter(|_| expected.deleted.is_none()));
        prop_assert_eq!(seen.active.map(Version::get), expected.active);
        prop_assert_eq!(seen.revision, expected.revision);
        prop_assert_eq!(
            seen.restorable_until_ms,
            expected.deleted.map(|(_, until_ms)| until_ms)
        );
        let used = seen
            .used
            .ranges()
            .iter()
            .flat_map(|&(first, last)| first..=last)
            .collect::<BTreeSet<_>>();
        prop_assert_eq!(&used, &expected.used);
        let numbers: Vec<u32> = seen.versions.iter().map(|row| row.version.get()).collect();
        prop_assert_eq!(numbers, expected.versions.keys().copied().collect::<Vec<_>>());
        for (row, expected) in seen.versions.iter().zip(expected.versions.values()) {
            prop_assert_eq!(row.state, expected.shown(view.time_ms()));
            prop_assert_eq!(row.expires_ms, expected.expires_ms);
            prop_assert_eq!(row.disclosures_left, expected.left);
            let value = view
                .sealed_value(&id(byte), row.version)
                .unwrap()
                .map(|value| value.ciphertext[0]);
            prop_assert_eq!(value, expected.value);
        }
    }
    Ok(())
}

const PLACES: u8 = 3;
const SECRETS: u8 = 4;

/// Commands over few places, secrets, values and numbers, so that they meet.
pub(super) fn commands() -> impl Strategy<Value = Command> {
    let some_step = || (prop::collection::vec(preconditions(), 0..2), operations());
    let guards = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(some_step(), 1..2)];
    let some_steps = prop_oneof![4 => prop::collection::vec(some_step(), 1..2), 1 => prop::collection::vec(some_step(), 2..4)];
    (guards, some_steps).prop_map(|(guards, some_steps)| {
        let build = |(preconditions, operation)| Step {
            preconditions,
            ..step(operation)
        };
        Command {
            guards: guards.into_iter().map(build).collect(),
            steps: some_steps.into_iter().map(build).collect(),
        }
    })
}

fn preconditions() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        (1..=PLACES).prop_map(|byte| Precondition::Absent { place: place(byte) }),
        (1..=PLACES, prop::option::of(1..=SECRETS)).prop_map(|(byte, secret)| Precondition::Present {
            place: place(byte),
            secret: secret.map(id)
        }),
        (1..=SECRETS, 0_u64..4).prop_map(|(byte, revision)| Precondition::AtRevision {
            secret: id(byte),
            revision
        }),
    ]
}

fn whereabouts() -> impl Strategy<Value = Expected> {
    prop_oneof![3 => (1..=PLACES).prop_map(at), 1 => (1..=SECRETS).prop_map(|byte| Expected::Id(id(byte)))]
}

fn numbers() -> impl Strategy<Value = Version> {
    (1_u32..7).prop_map(version)
}

fn ends() -> impl Strategy<Value = EndAction> {
    prop::sample::select(vec![EndAction::Disable, EndAction::Delete, EndAction::Destroy])
}

fn settings() -> impl Strategy<Value = SecretSettings> {
    let limits = (
        prop::option::weighted(0.2, 0_u32..4),
        prop::option::weighted(0.1, 1_u64..90),
        prop::option::weighted(0.1, 0_u32..3),
    );
    (
        limits,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        ends(),
    )
        .prop_map(
            |(
                (keep_versions, default_lifetime_ms, default_disclosures),
                check_and_set_required,
                protected,
                default_on_end,
            )| {
                SecretSettings {
                    keep_versions,
                    check_and_set_required,
                    default_lifetime_ms,
                    default_disclosures,
                    default_on_end,
                    protected,
                }
            },
        )
}

fn puts() -> impl Strategy<Value = Put> {
    let whom = (
        1..=PLACES,
        1..=SECRETS,
        1_u8..4,
        prop::option::weighted(0.9, settings()),
    );
    let number = prop_oneof![4 => Just(NumberChoice::Next), 1 => numbers().prop_map(NumberChoice::Exactly)];
    let how = (
        prop::sample::select(vec![
            Activation::Always,
            Activation::WhenNoneActive,
            Activation::Never,
        ]),
        prop::sample::select(vec![SameValue::Store, SameValue::KeepActiveOrLatest]),
        prop::option::weighted(0.2, 0_u32..4),
    );
    let limits = (
        prop::option::weighted(0.3, 1_u64..90),
        prop::option::weighted(0.3, 1_u32..3),
        prop::option::of(ends()),
    );
    (whom, number, how, limits).prop_map(|((at, secret, value, settings), number, how, limits)| Put {
        place: place(at),
        create: settings.map(create),
        number,
        activation: how.0,
        same_value: how.1,
        check_and_set: how.2,
        lifetime_ms: limits.0,
        disclosures: limits.1,
        on_end: limits.2,
        ..put(secret, value)
    })
}

fn changes() -> impl Strategy<Value = VersionChange> {
    prop_oneof![
        Just(VersionChange::Enable),
        Just(VersionChange::Disable),
        prop::option::of(0_u64..90).prop_map(|recoverable_ms| VersionChange::Delete { recoverable_ms }),
        Just(VersionChange::Undelete),
        Just(VersionChange::Destroy),
    ]
}

fn operations() -> impl Strategy<Value = Operation> {
    let which = prop_oneof![
        numbers().prop_map(Which::Number),
        Just(Which::Active),
        Just(Which::Latest),
        Just(Which::LatestEnabled)
    ];
    prop_oneof![
        1 => (1..=PLACES, 1..=SECRETS, settings()).prop_map(|(at, secret, settings)| Operation::Create {
            place: place(at), secret: id(secret), create: create(settings),
        }),
        8 => puts().prop_map(Operation::Put),
        2 => (whereabouts(), numbers()).prop_map(|(at, version)| Operation::Activate { at, version }),
        4 => (whereabouts(), prop::collection::vec(numbers(), 0..3), changes(), any::<bool>(), any::<bool>())
            .prop_map(|(at, versions, change, spare_active, refuse_destroyed)| Operation::ChangeVersions {
                at, versions, change, spare_active, refuse_destroyed,
            }),
        2 => (whereabouts(), prop::option::weighted(0.7, 0_u64..90))
            .prop_map(|(at, recoverable_ms)| Operation::Delete { at, recoverable_ms }),
        2 => (1..=SECRETS, 1..=PLACES).prop_map(|(secret, at)| Operation::Restore { secret: id(secret), place: place(at) }),
        2 => (whereabouts(), 1..=PLACES).prop_map(|(at, to)| Operation::Move { at, to: place(to), name: sealed(5) }),
        1 => (whereabouts(), prop::option::of(settings())).prop_map(|(at, settings)| Operation::Configure {
            at, metadata: None, settings,
        }),
        1 => (whereabouts(), numbers(), prop::option::of(prop::option::of(0_u64..90)), prop::option::of(prop::option::of(0_u32..3)), prop::option::of(ends()))
            .prop_map(|(at, version, lifetime_ms, disclosures_left, on_end)| Operation::ConfigureVersion {
                at, version, metadata: None, lifetime_ms, disclosures_left, on_end,
            }),
        6 => (whereabouts(), which, prop::option::weighted(0.2, numbers()))
            .prop_map(|(at, which, unless_active_is)| Operation::Disclose { at, which, unless_active_is }),
        1 => whereabouts().prop_map(|at| Operation::Look(Look::Secret(at))),
    ]
}
