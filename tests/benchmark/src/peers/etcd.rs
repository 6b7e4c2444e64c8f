//! Three nodes of etcd 3.4 with TLS for clients and peers and certificates on both sides; all else is its
//! default, fsync and linearizable reads included.
//!
//! The numbers of fields are those of its `rpc.proto` and `kv.proto`.

use super::{
    Cluster, NODES, eventually, grpc::GrpcConnection, process::Process, protobuf, run_number, site::Site,
};
use crate::Failure;
use conclave::bench::{Driver, Kind, Secrets, Target};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// A running cluster.
pub struct Etcd {
    program: PathBuf,
    processes: Vec<Option<Process>>,
    targets: Vec<Target>,
    site: Site,
}

/// One client of one node.
pub struct EtcdCaller {
    connection: GrpcConnection,
    secrets: Secrets,
    task: Task,
    run: u64,
}

#[derive(Clone, Copy)]
enum Task {
    Fill,
    Work(Kind),
}

impl Etcd {
    /// Starts three nodes without any data, and waits until they serve.
    ///
    /// # Errors
    /// When they do not.
    pub async fn start(program: &Path, folder: &Path) -> Result<Self, Failure> {
        let site = Site::make(folder, NODES, &[])?;
        let mut cluster = Self {
            program: program.to_owned(),
            processes: (0..NODES).map(|_| None).collect(),
            targets: site.targets(GrpcConnection::HTTP_2)?,
            site,
        };
        for node in 0..NODES {
            cluster.start_node(node)?;
        }
        cluster.wait_until_serving().await?;
        Ok(cluster)
    }

    fn arguments(&self, node: usize) -> Vec<OsString> {
        let own = self.site.node(node);
        let client = own.api();
        let peer = |node: usize| format!("https://127.0.0.1:{}", self.site.node(node).ports.cluster);
        let members: Vec<String> = (0..NODES)
            .map(|node| format!("{}={}", self.site.node(node).name, peer(node)))
            .collect();
        // Of this certificate etcd's own gateway makes a client's, so it has to be good for both.
        let (certificate, key) = (self.site.file(node, "node.pem"), self.site.file(node, "node.key"));
        let texts = [
            ("--name", own.name.clone()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer(node)),
            ("--initial-advertise-peer-urls", peer(node)),
            ("--initial-cluster", members.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-outputs", "stderr".to_owned()),
        ];
        let paths = [
            ("--data-dir", own.data_dir.clone()),
            ("--cert-file", certificate.clone()),
            ("--key-file", key.clone()),
            ("--trusted-ca-file", self.clients_authorities()),
            ("--peer-cert-file", certificate),
            ("--peer-key-file", key),
            ("--peer-trusted-ca-file", self.site.layout.authority()),
        ];
        let flags = ["--client-cert-auth", "--peer-client-cert-auth"];
        let texts = texts.map(|(name, text)| [OsString::from(name), OsString::from(text)]);
        let paths = paths.map(|(name, path)| [OsString::from(name), OsString::from(path)]);
        let with_values = texts.into_iter().chain(paths).flatten();
        with_values.chain(flags.map(OsString::from)).collect()
    }

    /// Those of clients and of nodes, for its gateway shows a node's.
    fn clients_authorities(&self) -> PathBuf {
        self.site.path().join("all-ca.pem")
    }

    async fn status(&self, node: usize) -> Result<Status, Failure> {
        let mut connection = GrpcConnection::new(self.targets[node].clone());
        let answer = connection.call("/etcdserverpb.Maintenance/Status", &[]).await?;
        let header = protobuf::bytes(&answer, 1)?;
        Ok(Status {
            member_id: protobuf::number(header, 2)?,
            leader: protobuf::number(&answer, 4)?,
        })
    }
}

impl Cluster for Etcd {
    type Caller = EtcdCaller;

    fn name(&self) -> &'static str {
        "etcd"
    }

    fn pid(&self, node: usize) -> u32 {
        self.processes[node].as_ref().map_or(0, Process::pid)
    }

    fn data_dir(&self, node: usize) -> &Path {
        &self.site.node(node).data_dir
    }

    async fn leader(&self) -> Result<usize, Failure> {
        eventually("etcd's leader", async || {
            let mut leads = None;
            let mut leaders = Vec::new();
            for node in 0..NODES {
                let status = self.status(node).await?;
                if status.member_id == status.leader {
                    leads = Some(node);
                }
                leaders.push(status.leader);
            }
            if leaders.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err("they follow several".into());
            }
            leads.ok_or_else(|| "none leads".into())
        })
        .await
    }

    fn filling(&self, node: usize, secrets: &Secrets) -> EtcdCaller {
        EtcdCaller::new(&self.targets[node], secrets, Task::Fill)
    }

    fn working(&self, node: usize, secrets: &Secrets, kind: Kind) -> EtcdCaller {
        EtcdCaller::new(&self.targets[node], secrets, Task::Work(kind))
    }

    async fn kill(&mut self, node: usize) {
        if let Some(process) = self.processes[node].take() {
            process.kill().await;
        }
    }

    fn start_node(&mut self, node: usize) -> Result<(), Failure> {
        let both = self.clients_authorities();
        if !both.exists() {
            let clients = std::fs::read_to_string(self.site.layout.client_authority().0)?;
            let nodes = std::fs::read_to_string(self.site.layout.authority())?;
            std::fs::write(&both, clients + &nodes)?;
        }
        let log = &self.site.node(node).log;
        let process = Process::start(&self.program, &self.arguments(node), log)?;
        self.processes[node] = Some(process);
        Ok(())
    }

    async fn wait_until_serving(&self) -> Result<(), Failure> {
        self.leader().await.map(drop)
    }
}

impl EtcdCaller {
    fn new(target: &Target, secrets: &Secrets, task: Task) -> Self {
        Self {
            connection: GrpcConnection::new(target.clone()),
            secrets: secrets.clone(),
            task,
            run: run_number(),
        }
    }

    async fn put(&mut self, index: usize, number: Option<u64>) -> Result<(), String> {
        let number = number.map(|number| self.run.wrapping_add(number));
        let (key, value) = (self.secrets.name(index), self.secrets.value(number));
        let request = protobuf::message(&[(1, key.as_bytes()), (2, value.as_bytes())]);
        self.connection
            .call("/etcdserverpb.KV/Put", &request)
            .await
            .map(drop)
    }

    /// Linearizable, for nothing says otherwise.
    async fn get(&mut self, index: usize) -> Result<(), String> {
        let request = protobuf::message(&[(1, self.secrets.name(index).as_bytes())]);
        let answer = self.connection.call("/etcdserverpb.KV/Range", &request).await?;
        let found = protobuf::bytes(&answer, 2)?;
        if protobuf::bytes(found, 5)?.len() == self.secrets.value_bytes() {
            Ok(())
        } else {
            Err("etcd has another value".to_owned())
        }
    }
}

impl Driver for EtcdCaller {
    async fn perform(&mut self, number: u64) -> Result<(), String> {
        let index = self.secrets.scattered(number);
        match self.task {
            Task::Fill => {
                let count = self.secrets.count() as u64;
                self.put((number % count) as usize, None).await
            }
            Task::Work(Kind::Put) => self.put(index, Some(number)).await,
            Task::Work(Kind::Get) => self.get(index).await,
            Task::Work(Kind::Poll | Kind::Mixed) => Err("etcd has no polls".to_owned()),
        }
    }
}

/// Who answers, and whom it follows.
struct Status {
    member_id: u64,
    leader: u64,
}
