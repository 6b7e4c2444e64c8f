//! Syncs of all processes. Each is started under strace with a filter in the kernel, so that only the system
//! calls that sync are stopped for, by clusters of their own: no other figure is taken of these.

use super::{
    FEW_SECRETS, secrets,
    work::{Load, Work},
};
use crate::{
    Failure,
    measure::{fill, thousands},
    options::{Options, Setup},
    peers::{Cluster, Conclave, Etcd, counting_syncs, syncs},
    report::{Section, Table},
};
use conclave::bench::Kind;
use std::path::{Path, PathBuf};

const SECONDS: u32 = 5;

pub async fn run(options: &Options) -> Result<Section, Failure> {
    let setup = &options.setup;
    let folder = new_folder(setup)?;
    let mut table = Table::new(&[
        "work",
        "program",
        "per second, while each sync is stopped for",
        "syncs per second: leader, followers",
        "operations per sync of the leader",
    ]);
    let program = counting_syncs(&absolute(&setup.conclave()?)?, &folder)?;
    let conclave = Conclave::start(&program, &setup.folder.join("conclave")).await?;
    measure(
        &mut table,
        &conclave,
        &[Kind::Put, Kind::Get, Kind::Poll],
        setup,
        &folder,
    )
    .await?;
    drop(conclave);
    let program = counting_syncs(&absolute(&setup.etcd)?, &folder)?;
    let etcd = Etcd::start(&program, &setup.folder.join("etcd")).await?;
    measure(&mut table, &etcd, &[Kind::Put, Kind::Get], setup, &folder).await?;
    Ok(Section {
        name: "syncs",
        tables: vec![table],
    })
}

async fn measure<C: Cluster>(
    table: &mut Table,
    cluster: &C,
    kinds: &[Kind],
    setup: &Setup,
    folder: &Path,
) -> Result<(), Failure> {
    let secrets = secrets(FEW_SECRETS);
    fill(cluster, &secrets).await?;
    let load = Load {
        clients: setup.clients,
        per_second: None,
        seconds: SECONDS,
    };
    for kind in kinds {
        let work = match kind {
            Kind::Poll => Work::at_follower(*kind),
            _ => Work::at_leader(*kind),
        };
        let pids = cluster.pids_from_leader().await?;
        let count =
            || -> Result<Vec<usize>, Failure> { pids.iter().map(|pid| syncs(folder, *pid)).collect() };
        let (before, from) = (count()?, std::time::Instant::now());
        let done = work.round(cluster, &secrets, load).await?;
        let elapsed_s = from.elapsed().as_secs_f64();
        let after = count()?;
        let per_second: Vec<f64> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| (after - before) as f64 / elapsed_s)
            .collect();
        let shown: Vec<String> = per_second.iter().map(|figure| thousands(*figure)).collect();
        table.row([
            format!("{} at {}", work.name(), work.at.name()),
            cluster.name().to_owned(),
            thousands(done.measured.per_second()),
            shown.join(", "),
            thousands(done.measured.per_second() / per_second[0]),
        ]);
    }
    Ok(())
}

fn new_folder(setup: &Setup) -> Result<PathBuf, Failure> {
    let folder = setup.folder.join("syncs");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}

/// A program without slashes is looked for where the shell would.
fn absolute(program: &Path) -> Result<PathBuf, Failure> {
    if program.components().count() > 1 {
        return Ok(program.canonicalize()?);
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{}: not found", program.display()).into())
}
