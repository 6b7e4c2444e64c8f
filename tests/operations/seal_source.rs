//! A seal of another kind than key files, behind the same interface: here a service that keeps what it
//! wraps, and does not always answer.

use crate::fixture::{Edge, OneNode, deadline, root};
use conclave::{
    operations::OperationLimits,
    seal::{Key, KeyFiles, ProviderError, SealProvider, SealSource, SealedReason},
};
use conclave_cluster::command::Which;
use futures::future::{BoxFuture, FutureExt};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Wraps a key by keeping it, with its context, under a number.
struct Service {
    id: &'static str,
    answers: AtomicBool,
    kept: Mutex<Vec<(Vec<u8>, Key)>>,
}

impl Service {
    fn new(id: &'static str) -> Arc<Self> {
        Arc::new(Self {
            id,
            answers: AtomicBool::new(true),
            kept: Mutex::default(),
        })
    }

    fn check(&self) -> Result<(), ProviderError> {
        if self.answers.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(ProviderError::Unavailable("the service is away".to_owned()))
        }
    }
}

impl SealProvider for Service {
    fn id(&self) -> &str {
        self.id
    }

    fn wrap<'a>(&'a self, key: &'a Key, context: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, ProviderError>> {
        async move {
            self.check()?;
            let mut kept = self.kept.lock().unwrap();
            kept.push((context.to_vec(), key.clone()));
            Ok(vec![u8::try_from(kept.len() - 1).unwrap()])
        }
        .boxed()
    }

    fn unwrap<'a>(
        &'a self,
        wrapped: &'a [u8],
        context: &'a [u8],
    ) -> BoxFuture<'a, Result<Key, ProviderError>> {
        async move {
            self.check()?;
            let kept = self.kept.lock().unwrap();
            match kept.get(usize::from(wrapped[0])) {
                Some((bound, key)) if bound == context => Ok(key.clone()),
                _ => Err(ProviderError::CannotUnwrap {
                    id: self.id.to_owned(),
                }),
            }
        }
        .boxed()
    }
}

/// The first is the configured one.
struct Services(Vec<Arc<Service>>);

impl SealSource for Services {
    fn configured(&self) -> Result<Arc<dyn SealProvider>, SealedReason> {
        Ok(self.0[0].clone())
    }

    fn with_id(&self, id: &str) -> Result<Arc<dyn SealProvider>, SealedReason> {
        match self.0.iter().find(|service| service.id == id) {
            Some(service) => Ok(service.clone()),
            None => Err(SealedReason::WrongSealKey {
                needed: id.to_owned(),
                configured: self.0[0].id.to_owned(),
            }),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_seals_as_a_key_file_does() {
    let node = OneNode::start().await;
    let (first, second) = (Service::new("service-1"), Service::new("service-2"));
    let start = |services: &[&Arc<Service>]| {
        let source = Services(services.iter().map(|&service| service.clone()).collect());
        let (operations, sealer) = node.edge_of(Arc::new(source), OperationLimits::default());
        Edge {
            operations,
            sealer,
            key_files: Arc::new(KeyFiles::new(None)),
        }
    };
    let away = SealedReason::SealKey("the service is away".to_owned());

    // No keyring is made without it; one is as soon as it answers.
    first.answers.store(false, Ordering::SeqCst);
    let edge = start(&[&first, &second]);
    edge.wait(|status| {
        let reason = status.sealed.as_ref().map(ToString::to_string);
        reason.is_some_and(|reason| reason.contains("the service is away"))
    })
    .await;
    first.answers.store(true, Ordering::SeqCst);
    edge.sealer.retry_and_wait(deadline()).await.unwrap();
    edge.put(&root(), "app", "v").await.unwrap();

    // Another node opens what is stored, and goes on while the service is away; a new one waits.
    let other = start(&[&first]);
    other.wait(|status| status.sealed.is_none()).await;
    first.answers.store(false, Ordering::SeqCst);
    other.sealer.retry_and_wait(deadline()).await.unwrap();
    assert_eq!(other.get(&root(), "app", Which::Active).await.unwrap().1, "v");
    assert!(other.sealer.status().borrow().warning.is_some());
    let late = start(&[&first]);
    late.wait(|status| status.sealed.as_ref() == Some(&away)).await;
    first.answers.store(true, Ordering::SeqCst);
    late.sealer.retry_and_wait(deadline()).await.unwrap();

    // Rotation and another wrapping.
    assert_eq!(edge.sealer.rotate(deadline()).await.unwrap(), 2);
    edge.sealer.rekey(&*second, deadline()).await.unwrap();
    let fresh = start(&[&second]);
    let status = fresh.wait(|status| status.sealed.is_none()).await;
    assert_eq!(status.seal_key_id.as_deref(), Some("service-2"));
    assert_eq!(fresh.get(&root(), "app", Which::Active).await.unwrap().1, "v");
    let old = start(&[&first]);
    old.wait(|status| matches!(status.sealed, Some(SealedReason::WrongSealKey { .. })))
        .await;
}

/// Panics when it is asked the first time.
struct PanicsOnce(Services, AtomicBool);

impl SealSource for PanicsOnce {
    fn configured(&self) -> Result<Arc<dyn SealProvider>, SealedReason> {
        assert!(self.1.swap(true, Ordering::SeqCst), "as the test wants");
        self.0.configured()
    }

    fn with_id(&self, id: &str) -> Result<Arc<dyn SealProvider>, SealedReason> {
        self.0.with_id(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_no_attempts_to_unseal() {
    let node = OneNode::start().await;
    let source = PanicsOnce(Services(vec![Service::new("service")]), AtomicBool::new(false));
    let (operations, sealer) = node.edge_of(Arc::new(source), OperationLimits::default());
    let edge = Edge {
        operations,
        sealer,
        key_files: Arc::new(KeyFiles::new(None)),
    };
    edge.wait(|status| status.sealed.is_none()).await;
}
