//! One run: start a cluster, let clients and faults loose on it, heal it, look at everything, judge.

use crate::{
    HarnessError,
    checker::{self, Check, Finding, Verdict},
    client::{CALL_TIMEOUT, Caller, CallerOptions, INTERNAL_ERROR},
    cluster::{ClientAccount, Cluster, ClusterOptions, free_bytes},
    history::{Answer, Call, History, Operation, Outcome, Recorder},
    nemesis::Nemesis,
    planted,
    report::{Report, Summary},
    schedule::{Fault, Schedule},
    workload::{Pool, Shared, Workload},
};
use conclave::{
    api::conclave::messages::{AuditEntry, AuditListRequest},
    client::{Client, Settings},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

/// What to do.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The `conclave` program.
    pub program: PathBuf,
    pub nodes: usize,
    /// How long faults strike.
    pub time: Duration,
    pub seed: u64,
    pub faults: Vec<Fault>,
    pub mixed: bool,
    pub workloads: Vec<Workload>,
    /// An empty or new folder for everything that the run leaves.
    pub output: PathBuf,
    /// The line that repeats it.
    pub command: String,
    /// A fault that is planted in the program, which must have been built for that.
    pub planted: Option<&'static str>,
}

/// Makes one run and writes its report.
///
/// # Errors
/// When the harness itself fails; a broken promise is no error but a verdict.
pub async fn run(options: &RunOptions) -> Result<Summary, HarnessError> {
    let folder = options.output.join("cluster");
    let about_folder = |error| HarnessError::about(folder.display(), error);
    fs::create_dir_all(&folder).map_err(about_folder)?;
    let folder = folder.canonicalize().map_err(about_folder)?;
    tokio::select! {
        ended = run_in(&folder, options) => ended,
        full = below_reserve(&folder) => {
            let disks = folder.join("disks");
            fs::remove_dir_all(&disks).map_err(|error| HarnessError::about(disks.display(), error))?;
            Err(full)
        }
    }
}

async fn run_in(folder: &Path, options: &RunOptions) -> Result<Summary, HarnessError> {
    let schedule = Schedule::draw(options.seed, options.time, &options.faults, options.mixed);
    let accounts = accounts(&options.workloads);
    let mut cluster = Cluster::start(&ClusterOptions {
        program: &options.program,
        folder,
        nodes: options.nodes,
        accounts: &accounts,
        environment: options.planted.map(|fault| (planted::VARIABLE, fault)),
        operator: &operator(),
    })?;
    cluster
        .wait_until_whole(PATIENCE)
        .await
        .map_err(|lacking| HarnessError::about("the cluster does not form", lacking))?;
    if options.planted.is_some() && !confesses(folder) {
        return Err(HarnessError(
            "the program was built without the feature planted-faults".to_owned(),
        ));
    }
    eprintln!(
        "{} nodes serve; seed {}, {} faults",
        options.nodes,
        options.seed,
        schedule.strikes.len()
    );

    let recorder = Arc::new(Recorder::new());
    let (leader_sender, leader) = watch::channel(None);
    let mut watcher = JoinSet::new();
    watcher.spawn(watch_leader(cluster.operator().clone(), leader_sender));
    let shared = Arc::new(Shared::new(leader.clone()));
    let (clients, pools) = start_clients(&cluster, options, &recorder, &shared)?;

    let mut nemesis = Nemesis::new(recorder.clone(), leader);
    nemesis.run(&mut cluster, &schedule).await?;
    nemesis.heal(&mut cluster).await?;
    let load = recorder.elapsed();
    let whole = cluster.wait_until_whole(PATIENCE).await;
    nemesis.look_for_ends(&mut cluster);
    let healed = recorder.elapsed();
    // The cluster must serve again, not only say so.
    tokio::time::sleep(AFTER_HEALING).await;
    shared.stop();
    clients.join_all().await;
    drop(watcher);
    let end_ns = recorder.now_ns();
    eprintln!(
        "healed {:.1} s after the last fault; reading everything",
        (healed - load).as_secs_f64()
    );

    let unread = read_everything(&cluster, options, &recorder, &pools).await?;
    let digests = compare_digests(&mut cluster).await;
    let audit = read_audit(cluster.operator()).await;
    nemesis.heal(&mut cluster).await?;
    let mut stopped = Vec::new();
    if unread > 0 {
        stopped.push(format!("{unread} secrets were not read in time at the end"));
    }
    for node in 0..cluster.len() {
        if !cluster.stop(node).await {
            stopped.push(format!("node {} did not stop with exit code 0", node + 1));
        }
    }
    drop(cluster);

    let history = recorder.history();
    let operations = &history.operations;
    let names: Vec<&str> = options.workloads.iter().map(|workload| workload.name()).collect();
    let mut checks = vec![checker::enough::check(operations, load, &names)];
    checks.extend(judge(&history, audit.as_deref()));
    checks.push(digests);
    checks.push(nodes_check(
        &nemesis,
        whole,
        operations,
        healed - load,
        folder,
        stopped,
        options.nodes,
    ));
    checks.push(checker::availability::check(operations, nemesis.done(), end_ns));

    let summary = Summary {
        verdict: checks
            .iter()
            .map(|check| check.verdict)
            .max()
            .unwrap_or(Verdict::Unknown),
        seed: options.seed,
        nodes: options.nodes,
        seconds: options.time.as_secs(),
        mixed: options.mixed,
        workloads: names.iter().map(|name| (*name).to_owned()).collect(),
        version: version(&options.program),
        command: options.command.clone(),
        checks,
    };
    let report = Report {
        history: &history,
        schedule: &schedule,
        done: nemesis.done(),
        audit: audit.as_deref().unwrap_or_default(),
        summary,
    };
    report.write(&options.output)?;
    if report.summary.verdict == Verdict::Valid {
        // Nobody will look into them.
        let disks = folder.join("disks");
        fs::remove_dir_all(&disks).map_err(|error| HarnessError::about(disks.display(), error))?;
    }
    Ok(report.summary)
}

/// What a run leaves of the machine's own disk. It ends there: it keeps what nodes removed, for power cuts
/// to bring back, and has filled a disk once.
const DISK_RESERVE_BYTES: u64 = 4 * 1024 * 1024 * 1024;
const DISK_LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Waits until no more than the reserve is left of the disk, and says so.
async fn below_reserve(folder: &Path) -> HarnessError {
    loop {
        match free_bytes(folder) {
            Ok(left_bytes) if left_bytes >= DISK_RESERVE_BYTES => {}
            Ok(left_bytes) => {
                let what = format!(
                    "the disk has {} MiB left, and a run ends at {} MiB",
                    left_bytes >> 20,
                    DISK_RESERVE_BYTES >> 20
                );
                return HarnessError::about(folder.display(), what);
            }
            Err(error) => return HarnessError::about(folder.display(), error),
        }
        tokio::time::sleep(DISK_LOOK_PERIOD).await;
    }
}

/// How long a cluster may take to form, or to become whole after the last fault.
const PATIENCE: Duration = Duration::from_secs(120);
/// `cluster.staleness_bound_ms` as it is by default.
const STALENESS_BOUND: Duration = Duration::from_millis(2_000);
const AFTER_HEALING: Duration = Duration::from_secs(4);
/// Clients that read everything at the end.
const READERS: u64 = 6;
const WATCH_PERIOD: Duration = Duration::from_millis(250);

fn operator() -> ClientAccount {
    ClientAccount {
        name: "operator".to_owned(),
        secrets: None,
        operates: true,
    }
}

/// Reads every secret at the end.
fn reader() -> ClientAccount {
    ClientAccount {
        name: "reader".to_owned(),
        secrets: Some("*".to_owned()),
        operates: false,
    }
}

fn accounts(workloads: &[Workload]) -> Vec<ClientAccount> {
    let clients = workloads.iter().flat_map(|workload| workload.accounts());
    clients.chain([operator(), reader()]).collect()
}

fn settings(cluster: &Cluster, account: &ClientAccount) -> Settings {
    Settings {
        addresses: (0..cluster.len()).map(|node| cluster.api(node)).collect(),
        authority: cluster.files().authority(),
        identity: Some(cluster.files().identity(account)),
        timeout: Duration::from_secs(30),
    }
}

type Pools = Vec<(Workload, Arc<Pool>)>;

fn start_clients(
    cluster: &Cluster,
    options: &RunOptions,
    recorder: &Arc<Recorder>,
    shared: &Arc<Shared>,
) -> Result<(JoinSet<()>, Pools), HarnessError> {
    let mut clients = JoinSet::new();
    let mut pools = Vec::new();
    let count: usize = options
        .workloads
        .iter()
        .map(|workload| workload.accounts().len())
        .sum();
    let mut position = 0;
    for workload in &options.workloads {
        let pool = Arc::new(workload.pool());
        for account in workload.accounts() {
            let caller = Caller::new(
                &settings(cluster, &account),
                recorder.clone(),
                CallerOptions {
                    position,
                    clients: u64::try_from(count).unwrap_or(u64::MAX) + READERS,
                    principal: account.principal(),
                    workload: workload.name().to_owned(),
                    apis: (0..cluster.len()).map(|node| cluster.api(node)).collect(),
                    timeout: workload.call_timeout(),
                },
            )?;
            let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(position);
            clients.spawn(workload.run(caller, pool.clone(), shared.clone(), seed));
            position += 1;
        }
        pools.push((*workload, pool));
    }
    Ok((clients, pools))
}

/// Tells which node leads: the one that says so in the highest term.
async fn watch_leader(operator: Client, leader: watch::Sender<Option<usize>>) {
    loop {
        let mut asked = JoinSet::new();
        for node in 0..operator.addresses().len() {
            let client = operator.at(node).with_timeout(Duration::from_millis(700));
            asked.spawn(async move { (node, client.status().await) });
        }
        let mut newest = None;
        while let Some(Ok((node, status))) = asked.join_next().await {
            let Ok(status) = status else { continue };
            if status.leader_id.is_some() && status.leader_id == status.node_id {
                newest = newest.max(Some((status.term, node)));
            }
        }
        leader.send_replace(newest.map(|(_, node)| node));
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}

/// Reads every secret, and every version of it, as part of the history: what was acknowledged and is
/// gone is seen at the latest here. Returns how many were left unread.
async fn read_everything(
    cluster: &Cluster,
    options: &RunOptions,
    recorder: &Arc<Recorder>,
    pools: &Pools,
) -> Result<usize, HarnessError> {
    let mut names = Vec::new();
    for (workload, pool) in pools.iter().filter(|(workload, _)| *workload != Workload::Denied) {
        names.extend(pool.names().into_iter().map(|name| (*workload, name)));
    }
    let names = Arc::new(Mutex::new(names));
    let account = reader();
    let clients: usize = options
        .workloads
        .iter()
        .map(|workload| workload.accounts().len())
        .sum();
    let first = u64::try_from(clients).unwrap_or(u64::MAX);
    let until = Instant::now() + READ_PATIENCE;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let caller = Caller::new(
            &settings(cluster, &account),
            recorder.clone(),
            CallerOptions {
                position: first + reader,
                clients: first + READERS,
                principal: account.principal(),
                workload: READ_AT_THE_END.to_owned(),
                apis: (0..cluster.len()).map(|node| cluster.api(node)).collect(),
                timeout: CALL_TIMEOUT,
            },
        )?;
        readers.spawn(read_secrets(caller, names.clone(), until));
    }
    readers.join_all().await;
    Ok(names.lock().unwrap_or_else(PoisonError::into_inner).len())
}

const READ_AT_THE_END: &str = "final";
const FINAL_READ_TRIES: usize = 5;
/// Many times what it takes where all nodes serve.
const READ_PATIENCE: Duration = Duration::from_secs(300);

async fn read_secrets(mut caller: Caller, names: Arc<Mutex<Vec<(Workload, String)>>>, until: Instant) {
    let next = || names.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut turn = 0;
    while Instant::now() < until
        && let Some((_, name)) = next()
    {
        turn += 1;
        let versions = match read_once(&mut caller, turn, &name, Call::Info).await {
            Some(Answer::Versions { versions, .. }) => versions,
            _ => continue,
        };
        read_once(&mut caller, turn, &name, Call::Get).await;
        for version in versions {
            turn += 1;
            read_once(&mut caller, turn, &name, Call::GetVersion { version }).await;
        }
    }
}

/// Until it is answered, at one node after the other.
async fn read_once(caller: &mut Caller, turn: usize, name: &str, call: Call) -> Option<Answer> {
    for attempt in 0..FINAL_READ_TRIES {
        let node = (turn + attempt) % caller.nodes();
        if let Outcome::Ok { answer } = caller.call(node, Some(name), call.clone()).await {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    None
}

/// All nodes show the same digest at the same index, and a scan of every stored pair gives it too.
async fn compare_digests(cluster: &mut Cluster) -> Check {
    let mut findings = Vec::new();
    let mut seen: BTreeMap<u64, Vec<(usize, String)>> = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for node in 0..cluster.len() {
            let status = cluster.status(node).await;
            if let Some((index, digest)) =
                status.and_then(|status| status.state_digest_index.zip(status.state_digest))
            {
                let at = seen.entry(index).or_default();
                if !at.iter().any(|(of, _)| *of == node) {
                    at.push((node, digest));
                }
            }
        }
        let all = |at: &Vec<(usize, String)>| at.len() == cluster.len();
        if seen.values().any(all) || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (index, digests) in &seen {
        if digests.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            findings.push(finding(format!(
                "at index {index} the digests differ: {digests:?}"
            )));
        }
    }
    let compared = seen.values().filter(|at| at.len() == cluster.len()).count();
    if compared == 0 {
        findings.push(finding(
            "no index at which every node kept a digest was seen".to_owned(),
        ));
    }
    let verification = cluster
        .operator()
        .with_timeout(Duration::from_secs(120))
        .verify()
        .await;
    match verification {
        Ok(verification) if verification.agreed => {}
        Ok(verification) => findings.push(finding(format!("verification disagrees: {verification:?}"))),
        Err(error) => findings.push(finding(format!("verification failed: {error}"))),
    }
    Check::of("digests", findings, vec![("indices-compared", compared.into())])
}

/// Reads all of it, in pages.
async fn read_audit(operator: &Client) -> Result<Vec<AuditEntry>, String> {
    let operator = operator.with_timeout(Duration::from_secs(30));
    let mut records = Vec::new();
    let mut request = AuditListRequest {
        limit: Some(1_000),
        ..AuditListRequest::default()
    };
    loop {
        let page = operator
            .audit_list(&request)
            .await
            .map_err(|error| error.to_string())?;
        records.extend(page.records);
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => return Ok(records),
        }
    }
}

/// The nodes themselves: none ended by itself, none panicked or met damage, all came back.
fn nodes_check(
    nemesis: &Nemesis,
    whole: Result<(), String>,
    history: &[Operation],
    healing: Duration,
    folder: &Path,
    stopped: Vec<String>,
    nodes: usize,
) -> Check {
    let mut findings: Vec<Finding> = nemesis
        .ended_by_themselves()
        .iter()
        .cloned()
        .chain(stopped)
        .map(finding)
        .collect();
    if let Err(lacking) = whole {
        findings.push(finding(format!(
            "the cluster did not become whole after the last fault: {lacking}"
        )));
    }
    for operation in history {
        if let Outcome::Info { reason } = &operation.outcome
            && reason.starts_with(INTERNAL_ERROR)
            && !nemesis.done().iter().any(|fault| fault.damaged_for(operation))
        {
            findings.push(Finding {
                secret: operation.secret.clone(),
                operations: vec![operation.id],
                text: reason.clone(),
            });
        }
    }
    for node in 1..=nodes {
        let log =
            fs::read_to_string(folder.join("logs").join(format!("node-{node}.log"))).unwrap_or_default();
        let panics = log.lines().filter(|line| line.contains("panicked at")).take(3);
        findings.extend(panics.map(|line| finding(format!("node {node} panicked: {line}"))));
    }
    let figures = vec![(
        "healing-ms",
        u64::try_from(healing.as_millis()).unwrap_or(u64::MAX).into(),
    )];
    Check::of("nodes", findings, figures)
}

/// Whether the first node says that faults may be planted in it.
fn confesses(folder: &Path) -> bool {
    let log = fs::read_to_string(folder.join("logs").join("node-1.log"));
    log.is_ok_and(|log| log.contains(planted::CONFESSION))
}

fn finding(text: String) -> Finding {
    Finding {
        secret: None,
        operations: Vec::new(),
        text,
    }
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("version").output();
    output.map_or_else(
        |error| format!("unknown: {error}"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// What clients were told, held against the promises and the audit.
fn judge(history: &History, audit: Result<&[AuditEntry], &String>) -> Vec<Check> {
    let operations = &history.operations;
    let denied = Workload::Denied.accounts();
    let denied: Vec<String> = denied.iter().map(ClientAccount::principal).collect();
    let mut checks = Vec::from(checker::registers::check(operations, STALENESS_BOUND));
    checks.push(checker::versions::check(operations));
    match audit {
        Ok(audit) => {
            checks.push(checker::audit::check(operations, audit, &denied));
            checks.push(checker::order::check(operations, audit));
        }
        Err(error) => {
            let text = format!("cannot be read: {error}");
            checks.push(Check::of("audit", vec![finding(text)], Vec::new()));
        }
    }
    checks
}

/// Judges again what a run left in its folder: history and audit.
///
/// # Errors
/// When they cannot be read.
pub fn judge_again(folder: &Path) -> Result<Vec<Check>, HarnessError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| HarnessError::about(path.display(), error))
    };
    let malformed = |error: serde_json::Error| HarnessError::about(folder.display(), error);
    let history = History::read_json_lines(&read("history.jsonl")?).map_err(malformed)?;
    let audit = read("audit.jsonl")?;
    let audit: Vec<AuditEntry> = audit
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(malformed)?;
    Ok(judge(&history, Ok(&audit)))
}
