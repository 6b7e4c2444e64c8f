//! An hour of mixed load at a steady rate: memory, files and latency over time.

use super::{
    FEW_SECRETS, conclave, secrets,
    work::{At, Load, Work},
};
use crate::{
    Failure,
    measure::{Usage, fill, mebibytes, taken, thousands},
    options::Hour,
    peers::Cluster,
    report::{Section, Table},
};
use conclave::bench::Kind;

const ROWS: u32 = 12;

pub async fn run(options: &Hour) -> Result<Section, Failure> {
    let setup = &options.setup;
    let (cluster, secrets) = (conclave(setup, "conclave").await?, secrets(FEW_SECRETS));
    fill(&cluster, &secrets).await?;
    let mut table = Table::new(&[
        "minute",
        "per second",
        "median ms",
        "p99 ms",
        "errors",
        "resident MiB by node",
        "data directory MiB by node",
        "files by node",
    ]);
    let work = Work {
        kind: Kind::Mixed,
        at: At::All,
    };
    let load = Load {
        clients: setup.clients,
        per_second: Some(options.rate.into()),
        // With the warm-up of each round, a minute.
        seconds: 58,
    };
    let step = (options.minutes / ROWS).max(1);
    for minute in 1..=options.minutes {
        let done = work.round(&cluster, &secrets, load).await?;
        if minute != 1 && !minute.is_multiple_of(step) {
            continue;
        }
        let (mut resident, mut sizes, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for node in 0..cluster.len() {
            let directory = taken(cluster.data_dir(node))?;
            resident.push(thousands(mebibytes(Usage::of(cluster.pid(node))?.resident_bytes)));
            sizes.push(thousands(mebibytes(directory.bytes)));
            files.push(directory.files.to_string());
        }
        table.row([
            minute.to_string(),
            thousands(done.measured.per_second()),
            thousands(done.measured.latency_ms(0.5)),
            thousands(done.measured.latency_ms(0.99)),
            done.measured.errors().to_string(),
            resident.join(", "),
            sizes.join(", "),
            files.join(", "),
        ]);
    }
    Ok(Section {
        name: "hour",
        tables: vec![table],
    })
}
