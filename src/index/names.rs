//! Names in order, both ways.

use crate::name::{FullName, SecretName, StorePath};
use conclave_cluster::model::SecretId;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Which secret has which name. Both maps always hold the same pairs.
#[derive(Default)]
pub struct Names {
    stores: BTreeMap<Arc<StorePath>, BTreeMap<SecretName, SecretId>>,
    by_secret: HashMap<SecretId, (Arc<StorePath>, SecretName)>,
}

impl Names {
    /// Gives a secret its name; it loses the one that it had, and whoever had this one loses it.
    pub fn insert(&mut self, secret: SecretId, name: &FullName) {
        if self
            .by_secret
            .get(&secret)
            .is_some_and(|(store, held)| store.contains(name) && *held == name.name)
        {
            return;
        }
        self.remove(secret);
        let path = name.store_path();
        let store = match self.stores.get_key_value(&path) {
            Some((store, _)) => store.clone(),
            None => Arc::new(path),
        };
        let names = self.stores.entry(store.clone()).or_default();
        if let Some(former) = names.insert(name.name.clone(), secret) {
            self.by_secret.remove(&former);
        }
        self.by_secret.insert(secret, (store, name.name.clone()));
    }

    /// Takes a secret out, if it is there.
    pub fn remove(&mut self, secret: SecretId) {
        let Some((store, name)) = self.by_secret.remove(&secret) else {
            return;
        };
        if let Some(names) = self.stores.get_mut(&store) {
            names.remove(&name);
            if names.is_empty() {
                self.stores.remove(&store);
            }
        }
    }

    /// The secrets of a store, in byte order of their names.
    pub fn of(&self, store: &StorePath) -> impl Iterator<Item = (FullName, SecretId)> + '_ {
        self.stores
            .get_key_value(store)
            .into_iter()
            .flat_map(|(store, names)| {
                names
                    .iter()
                    .map(|(name, secret)| (store.secret(name.clone()), *secret))
            })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_secret.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_two_maps(steps in prop::collection::vec((0_u8..6, prop::option::of("[ab]{1,2}")), 0..60)) {
            let (mut names, mut model) = (Names::default(), BTreeMap::<String, SecretId>::new());
            for (secret, name) in steps {
                let secret = SecretId([secret; 16]);
                model.retain(|_, held| *held != secret);
                match name {
                    Some(name) => {
                        names.insert(secret, &FullName::setec(name.clone()).unwrap());
                        model.insert(name, secret);
                    }
                    None => names.remove(secret),
                }
                let listed: Vec<_> = names
                    .of(&StorePath::setec())
                    .map(|(name, secret)| (name.name.as_str().to_owned(), secret))
                    .collect();
                prop_assert_eq!(&listed, &model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(names.len(), model.len());
            }
        }
    }
}
