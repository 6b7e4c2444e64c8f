//! What 100,000 secrets take on the disk of a node, beside etcd, and what accounts for it.

use super::{VALUE_BYTES, conclave, etcd, secrets};
use crate::{
    Failure,
    measure::{column_families, fill, mebibytes, taken, thousands},
    options::Options,
    peers::Cluster,
    progress::say,
    report::{Section, Table},
};
use std::{fs, path::Path, time::Duration};
use tokio::time::{Instant, sleep};

/// For what both programs do a moment later: snapshots, compactions.
const SETTLING: Duration = Duration::from_secs(15);

pub async fn run(options: &Options) -> Result<Section, Failure> {
    let setup = &options.setup;
    let secrets = secrets(options.disk_secrets as usize);
    let mut table = Table::new(&[
        "program",
        "filled in, s",
        "data directory, MiB by node",
        "files by node",
    ]);
    let mut conclave = conclave(setup, "conclave").await?;
    let our_fill = fill(&conclave, &secrets).await?;
    let listing = Instant::now();
    let listed = conclave.client().list().await?.len();
    let listing_ms = listing.elapsed().as_millis();
    sleep(SETTLING).await;
    table.row(row(&conclave, our_fill)?);

    let follower = (conclave.leader().await? + 1) % conclave.len();
    conclave.stop(follower).await?;
    say("conclave: looking at what a follower stored");
    let (accounts, beside_audit) = accounts(conclave.data_dir(follower))?;
    drop(conclave);

    let etcd = etcd(setup, "etcd").await?;
    let their_fill = fill(&etcd, &secrets).await?;
    sleep(SETTLING).await;
    table.row(row(&etcd, their_fill)?);
    table.verdict(
        "at most 100 MiB beside audit, at 100,000 secrets of 256 bytes",
        format!(
            "{} MiB at {} secrets of {VALUE_BYTES} bytes",
            thousands(beside_audit),
            options.disk_secrets
        ),
        beside_audit <= 100.0,
    );
    table.remark(format!("List of {listed} secrets by conclave: {listing_ms} ms."));
    Ok(Section {
        name: "disk",
        tables: vec![table, accounts],
    })
}

fn row<C: Cluster>(cluster: &C, filled: Duration) -> Result<[String; 4], Failure> {
    let mut sizes = Vec::new();
    let mut files = Vec::new();
    for node in 0..cluster.len() {
        let taken = taken(cluster.data_dir(node))?;
        sizes.push(thousands(mebibytes(taken.bytes)));
        files.push(taken.files.to_string());
    }
    Ok([
        cluster.name().to_owned(),
        thousands(filled.as_secs_f64()),
        sizes.join(", "),
        files.join(", "),
    ])
}

/// What accounts for a stopped node's directory, and the MiB of it that are not the audit's own tables.
fn accounts(data_dir: &Path) -> Result<(Table, f64), Failure> {
    let mut table = Table::new(&["of a follower of conclave's, stopped", "MiB"]);
    let total = taken(data_dir)?.bytes;
    let state = data_dir.join("state");
    let generation = state.join(fs::read_to_string(state.join("current"))?.trim());
    let (mut in_tables, mut audit) = (0, 0);
    for (family, bytes) in column_families(&generation)? {
        in_tables += bytes;
        if family.starts_with("audit") {
            audit += bytes;
        }
        if bytes > 0 {
            table.row([format!("state: table `{family}`"), thousands(mebibytes(bytes))]);
        }
    }
    let (state, log) = (taken(&state)?.bytes, taken(&data_dir.join("log"))?.bytes);
    let rest = [
        (
            "state: its own log of writes, and the rest",
            state.saturating_sub(in_tables),
        ),
        ("log", log),
        (
            "a snapshot, as far as it shares no files with the state",
            total.saturating_sub(state + log),
        ),
        ("all", total),
        ("all beside the audit's four tables", total.saturating_sub(audit)),
    ];
    for (what, bytes) in rest {
        table.row([what.to_owned(), thousands(mebibytes(bytes))]);
    }
    Ok((table, mebibytes(total.saturating_sub(audit))))
}
