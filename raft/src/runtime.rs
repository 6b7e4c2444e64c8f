//! The runtime that nodes and openraft run on: tokio, with randomness and threads that a simulator
//! can take over.
//!
//! Election timeouts, jitter and random ids are drawn from the runtime. Outside a
//! [`Runtime::seeded`] scope they come from the operating system; inside, every draw follows from
//! the scope's seed and the order of the tasks that draw, so that a run can be repeated. What blocks
//! runs on threads outside of a scope, and as tasks among the others inside it: one thread does
//! everything, in an order that follows from the seed. The clock is tokio's, which a test pauses and
//! advances (`tokio::time::pause`).
//!
//! Invariants: a task that is spawned inside a scope has a seed of its own that follows from its
//! parent's, so that tasks never share a sequence, and two nodes in one process never share a seed.
//! Inside a scope no thread is started. Nothing in this crate or above it spawns a task, starts a
//! thread or draws a number by another way.

pub use openraft::AsyncRuntime;
use openraft::{
    OptionalSend,
    async_runtime::{Select2, Select3, Select4},
};
use openraft_rt_tokio::TokioRuntime;
use rand::{Rng, SeedableRng, TryRng, rngs::SmallRng, rngs::ThreadRng};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{cell::Cell, convert::Infallible, future::Future, io, thread, time::Duration};

/// Tokio with an injectable source of randomness.
#[derive(Debug)]
pub struct Runtime {
    tokio: TokioRuntime,
}

tokio::task_local! {
    static SEED: Cell<u64>;
}

impl Runtime {
    /// Runs `future` so that it, and every task that is spawned from it through the runtime, draws
    /// its randomness from `seed` and starts no thread.
    pub async fn seeded<F: Future>(seed: u64, future: F) -> F::Output {
        SEED.scope(Cell::new(seed), future).await
    }

    /// What is to be given to a set of tasks (`JoinSet`, `TaskTracker`) in place of `future`: it runs
    /// as [`AsyncRuntime::spawn`] would run it.
    pub fn inherited<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        let seed = draw_seed().map(|seed| mix(seed, OF_A_CHILD));
        async move {
            match seed {
                Some(seed) => SEED.scope(Cell::new(seed), future).await,
                None => future.await,
            }
        }
    }

    /// Runs a task that blocks its thread, on a thread of its own; inside a scope, among the others.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn spawn_thread(
        name: &str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<DedicatedThread> {
        let thread = if SEED.try_with(|_| ()).is_ok() {
            drop(Self::spawn(task));
            None
        } else {
            let thread = thread::Builder::new().name(name.to_owned());
            Some(thread.spawn(|| futures::executor::block_on(task))?)
        };
        Ok(DedicatedThread { thread })
    }

    /// 16 random bytes, for ids that must be unique: the operating system's, outside a scope, also
    /// where a machine was cloned while it ran.
    pub fn random_16_bytes() -> [u8; 16] {
        let mut bytes = [0; 16];
        if let Some(seed) = draw_seed() {
            SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
            return bytes;
        }
        let mut filled = 0;
        while filled < bytes.len() {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())
                .expect("the kernel's random source, once seeded, does not fail for 16 bytes");
        }
        bytes
    }
}

/// Where a task of [`Runtime::spawn_thread`] runs. Dropped, it waits for the task's end, which the
/// task has to be told of before; inside a scope the task goes on to its end by itself.
#[derive(Debug)]
pub struct DedicatedThread {
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for DedicatedThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic there was reported by the panic hook; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

/// Where one caller's random numbers come from.
#[derive(Debug)]
pub enum Randomness {
    /// The operating system, by way of a generator of the thread.
    System(ThreadRng),
    /// The seed of the present [`Runtime::seeded`] scope.
    Seeded(SmallRng),
}

impl TryRng for Randomness {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(match self {
            Self::System(source) => source.next_u32(),
            Self::Seeded(source) => source.next_u32(),
        })
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(match self {
            Self::System(source) => source.next_u64(),
            Self::Seeded(source) => source.next_u64(),
        })
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::System(source) => source.fill_bytes(bytes),
            Self::Seeded(source) => source.fill_bytes(bytes),
        }
        Ok(())
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Randomness;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match draw_seed() {
            Some(seed) => TokioRuntime::spawn(SEED.scope(Cell::new(mix(seed, OF_A_CHILD)), future)),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn select2<A, B>(a: A, b: B) -> impl Future<Output = Select2<A::Output, B::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
    {
        TokioRuntime::select2(a, b)
    }

    fn select3<A, B, C>(
        a: A,
        b: B,
        c: C,
    ) -> impl Future<Output = Select3<A::Output, B::Output, C::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
        C: Future + OptionalSend,
    {
        TokioRuntime::select3(a, b, c)
    }

    fn select4<A, B, C, D>(
        a: A,
        b: B,
        c: C,
        d: D,
    ) -> impl Future<Output = Select4<A::Output, B::Output, C::Output, D::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
        C: Future + OptionalSend,
        D: Future + OptionalSend,
    {
        TokioRuntime::select4(a, b, c, d)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        match draw_seed() {
            Some(seed) => Randomness::Seeded(SmallRng::seed_from_u64(seed)),
            None => Randomness::System(rand::rng()),
        }
    }

    fn new(threads: usize) -> Self {
        Self {
            tokio: TokioRuntime::new(threads),
        }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio.block_on(future)
    }

    fn spawn_blocking<F, T>(function: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // Either way the function runs to its end, also where nobody waits for it any more.
        let task = if SEED.try_with(|_| ()).is_ok() {
            Self::spawn(async { function() })
        } else {
            tokio::task::spawn_blocking(function)
        };
        async { task.await.map_err(io::Error::other) }
    }
}

/// Takes the present scope's seed and steps the scope on.
fn draw_seed() -> Option<u64> {
    SEED.try_with(|seed| {
        let drawn = seed.get();
        seed.set(mix(drawn, OF_THE_NEXT_DRAW));
        drawn
    })
    .ok()
}

/// Two different odd steps, so that a child's sequence and its parent's never coincide.
const OF_A_CHILD: u64 = 0x9e37_79b9_7f4a_7c15;
const OF_THE_NEXT_DRAW: u64 = 0xd1b5_4a32_d192_ed03;

/// SplitMix64 (Steele, Lea, Flood 2014): a bijection in which each bit of the input affects half
/// of the output.
fn mix(seed: u64, step: u64) -> u64 {
    let mut mixed = seed.wrapping_add(step);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::rt::testing::Suite;

    async fn draws(seed: u64) -> Vec<u64> {
        Runtime::seeded(seed, async {
            let mut drawn = vec![Runtime::thread_rng().next_u64()];
            drawn.push(
                Runtime::spawn(async { Runtime::thread_rng().next_u64() })
                    .await
                    .unwrap(),
            );
            drawn.push(Runtime::thread_rng().next_u64());
            drawn
        })
        .await
    }

    #[tokio::test]
    async fn a_seed_decides_every_draw() {
        let first = draws(7).await;
        assert_eq!(first, draws(7).await);
        assert_ne!(first, draws(8).await);
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
    }

    #[tokio::test]
    async fn without_a_seed_the_system_is_asked() {
        assert!(matches!(Runtime::thread_rng(), Randomness::System(_)));
        let spawned = Runtime::spawn(async { matches!(Runtime::thread_rng(), Randomness::System(_)) });
        assert!(spawned.await.unwrap());
    }

    #[tokio::test]
    async fn inside_a_scope_everything_runs_on_one_thread() {
        let here = thread::current().id();
        let ids = || async {
            let (tell, told) = tokio::sync::oneshot::channel();
            let dedicated = Runtime::spawn_thread("dedicated", async {
                let _ = tell.send((thread::current().id(), Runtime::random_16_bytes()));
            })
            .unwrap();
            let blocking = Runtime::spawn_blocking(|| thread::current().id()).await.unwrap();
            let mut set = tokio::task::JoinSet::new();
            set.spawn(Runtime::inherited(async { Runtime::random_16_bytes() }));
            let drawn = set.join_next().await.unwrap().unwrap();
            let (thread, other) = told.await.unwrap();
            drop(dedicated);
            (thread, blocking, [drawn, other])
        };
        let (thread, blocking, first) = Runtime::seeded(7, ids()).await;
        assert_eq!((thread, blocking), (here, here));
        assert_ne!(first[0], first[1]);
        assert_eq!(first, Runtime::seeded(7, ids()).await.2);
        let (thread, blocking, _) = ids().await;
        assert!(thread != here && blocking != here);
    }

    #[test]
    fn openrafts_runtime_suite_passes() {
        Suite::<Runtime>::test_all();
    }
}
