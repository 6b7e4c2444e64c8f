//! `conclave dev`: runs a development cluster in the foreground; `conclave dev env` tells a shell
//! where it is.

use super::{
    Failure,
    output::{Format, write_line},
    progress::Progress,
};
use crate::dev::{
    Announcement, DevError, Folder, Layout, LayoutOptions, NodeProcess, PortChoice, Ports, default_folder,
    find_strays, wait_until_serving,
};
use clap::{Args, Subcommand};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a cluster on this machine, each node a process of its own, until Ctrl-C. Callers without a
/// certificate have all rights in it.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = false)]
pub struct Dev {
    #[command(subcommand)]
    action: Option<Action>,
    /// The folder that holds the cluster. Default: conclave/dev in your data folder
    /// (~/.local/share). A cluster that is there is started again.
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// How many nodes a new cluster has. Default: 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=LayoutOptions::MOST_NODES as i64))]
    nodes: Option<u8>,
    /// The first port: node n (from 0) listens on N+10n (API), N+10n+1 (cluster) and N+10n+2
    /// (metrics). 0: free ports. Default: 8200; a cluster that is there keeps its ports
    #[arg(long, value_name = "N")]
    port_base: Option<u16>,
    /// Delete what is in the folder first. Only a folder that `conclave dev` made is touched.
    #[arg(long)]
    fresh: bool,
    /// Lay a key over every node's configuration in a new cluster, as in:
    /// --set limits.value_bytes=65536
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    settings: Vec<(String, String)>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Prints the variables that client commands read, for: eval "$(conclave dev env)"
    Env,
}

impl Dev {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let path = self.data_dir.clone().or_else(default_folder).ok_or_else(|| {
            Failure::Usage("neither XDG_DATA_HOME nor HOME is set: name a folder with --data-dir".into())
        })?;
        match self.action {
            Some(Action::Env) => print_environment(&path, format),
            None => self.run_cluster(&path, format).await,
        }
    }

    async fn run_cluster(self, path: &Path, format: Format) -> Result<(), Failure> {
        // Before anything is started, so that no Ctrl-C is missed.
        let mut interrupts = signal(SignalKind::interrupt())?;
        let mut terminations = signal(SignalKind::terminate())?;
        let folder = Folder::open(path)?;
        if let Some(stray) = find_strays(folder.path()).first() {
            return Err(Failure::Other(format!(
                "{} runs already, as process {pid}; stop it first: kill {pid}",
                stray.name(),
                pid = stray.pid()
            )));
        }
        if self.fresh {
            folder.empty()?;
        }
        let (layout, _ports) = self.layout(&folder)?;
        let program = std::env::current_exe()?;
        let mut nodes = Vec::new();
        for node in layout.nodes() {
            nodes.push(NodeProcess::start(&program, node, [])?);
        }
        let announced = tokio::select! {
            result = announce(&layout, &mut nodes, &program, path, format) => result,
            _ = interrupts.recv() => Err(Failure::Other("interrupted".into())),
            _ = terminations.recv() => Err(Failure::Other("interrupted".into())),
        };
        if announced.is_ok() {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
                () = tell_of_ends(&mut nodes, &program) => {}
            }
        }
        stop_all(&mut nodes, &layout, format).await;
        // Whoever reads it now should learn that nothing runs.
        let _ = std::fs::remove_file(layout.announcement());
        announced
    }

    /// Finds the folder's cluster, or makes a new one.
    fn layout(&self, folder: &Folder) -> Result<(Layout, Option<Ports>), Failure> {
        if let Some(layout) = Layout::find(folder)? {
            let nodes = layout.nodes().len();
            if self.nodes.is_some_and(|wanted| usize::from(wanted) != nodes) {
                let message = format!(
                    "{} holds a cluster of {nodes} nodes; --fresh deletes it",
                    folder.path().display()
                );
                return Err(Failure::Usage(message));
            }
            if !self.settings.is_empty() {
                return Err(Failure::Usage(
                    "--set is for a new cluster; --fresh makes one".into(),
                ));
            }
            return self.moved(layout);
        }
        let choice = match self.port_base {
            Some(0) => PortChoice::Free,
            base => PortChoice::From(base.unwrap_or(DEFAULT_PORT_BASE)),
        };
        let nodes = usize::from(self.nodes.unwrap_or(DEFAULT_NODES));
        let ports = Ports::choose(choice, nodes)?;
        let options = LayoutOptions {
            nodes,
            settings: self.settings.clone(),
            dev: true,
        };
        Ok((Layout::make(folder, &ports, &options)?, Some(ports)))
    }

    /// A cluster that is there, on other ports where these are asked for.
    fn moved(&self, layout: Layout) -> Result<(Layout, Option<Ports>), Failure> {
        let here: Vec<_> = layout.nodes().iter().map(|node| node.ports).collect();
        let choice = match self.port_base {
            None => return Ok((layout, None)),
            // They were free when they were chosen; as long as they are, addresses stay what they were.
            Some(0) if Ports::are_free(&here) => return Ok((layout, None)),
            Some(0) => PortChoice::Free,
            Some(base) => PortChoice::From(base),
        };
        let ports = Ports::choose(choice, here.len())?;
        let layout = if ports.nodes() == here {
            layout
        } else {
            layout.move_to(&ports)?
        };
        Ok((layout, Some(ports)))
    }
}

const DEFAULT_NODES: u8 = 3;
const DEFAULT_PORT_BASE: u16 = 8_200;
const START_TIME: Duration = Duration::from_secs(60);
const STOP_TIME: Duration = Duration::from_secs(20);

/// Waits until the cluster serves, writes `dev.json`, and prints where everything is.
async fn announce(
    layout: &Layout,
    nodes: &mut [NodeProcess],
    program: &Path,
    path: &Path,
    format: Format,
) -> Result<(), Failure> {
    let progress = Progress::start(format, format!("starting {} nodes", nodes.len()));
    let readiness = {
        let ends: FuturesUnordered<_> = nodes.iter_mut().map(end).collect();
        let mut ends = ends;
        tokio::select! {
            ready = wait_until_serving(layout, START_TIME) => ready?,
            Some(message) = ends.next() => return Err(Failure::Other(message)),
        }
    };
    drop(progress);
    let announced = layout.nodes().iter().zip(&readiness.node_ids).zip(nodes.iter());
    let announced = announced
        .map(|((node, id), process)| node.announce(*id, process.pid()))
        .collect();
    let announcement = Announcement::new(layout, readiness.cluster_id, announced);
    announcement.write(&layout.announcement())?;
    match format {
        Format::Json => {
            eprintln!("{WARNING}");
            write_line(&announcement.to_json())
        }
        Format::Text => write_line(&welcome(&announcement, layout, program, path)),
    }
}

/// Said at every start.
const WARNING: &str = "WARNING: this cluster is made for development. Whoever reaches its loopback ports \
                       without a\ncertificate is `dev` and has ALL RIGHTS, to every secret and to the cluster.";

async fn end(node: &mut NodeProcess) -> String {
    let stopped = node.wait().await;
    format!("{} {stopped}:\n{}", node.name(), node.last_words())
}

/// Says which nodes ended and how each is started again. Never returns: they stay down.
async fn tell_of_ends(nodes: &mut [NodeProcess], program: &Path) {
    let mut ends: FuturesUnordered<_> = nodes
        .iter_mut()
        .map(|node| async {
            let stopped = node.wait().await;
            format!(
                "{} (process {}) {stopped} and stays down. Start it again with:\n  {} server --config {}\n\
                 (Ctrl-C here stops that one, too.)",
                node.name(),
                node.pid(),
                quoted(program),
                quoted(node.config()),
            )
        })
        .collect();
    while let Some(message) = ends.next().await {
        eprintln!("{message}");
    }
    std::future::pending().await
}

async fn stop_all(nodes: &mut [NodeProcess], layout: &Layout, format: Format) {
    let progress = Progress::start(format, "stopping".into());
    // Those that were started again by hand, as we said.
    let pids: Vec<u32> = nodes.iter().map(NodeProcess::pid).collect();
    let strays = find_strays(layout.folder())
        .into_iter()
        .filter(|stray| !pids.contains(&stray.pid()));
    let others = futures::future::join_all(strays.map(|stray| stray.stop(STOP_TIME)));
    let ours = futures::future::join_all(nodes.iter_mut().map(|node| node.stop(STOP_TIME)));
    futures::future::join(ours, others).await;
    drop(progress);
}

fn welcome(announcement: &Announcement, layout: &Layout, program: &Path, path: &Path) -> String {
    let mut text = format!("{WARNING}\n\nCluster {} serves:\n", announcement.cluster_id);
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (node, files) in announcement.nodes.iter().zip(layout.nodes()) {
        line(format!(
            "  {}  {}  (process {}, log {})",
            files.name,
            node.api,
            node.pid,
            files.log.display()
        ));
    }
    line(format!("CA:                 {}", announcement.ca.display()));
    line(format!(
        "client certificate: {}",
        announcement.client_cert.display()
    ));
    line(format!(
        "client key:         {}",
        announcement.client_key.display()
    ));
    line("\nIn another terminal:".to_owned());
    let folder = if Some(path) == default_folder().as_deref() {
        String::new()
    } else {
        format!(
            " --data-dir {}",
            quoted(layout.announcement().parent().unwrap_or(path))
        )
    };
    line(format!("  eval \"$({} dev env{folder})\"", quoted(program)));
    for command in [
        "printf s3cret | conclave put demo/password",
        "conclave get demo/password",
        "conclave list",
        "conclave status",
        "conclave audit list",
    ] {
        line(format!("  {command}"));
    }
    text.push_str("\nCtrl-C stops all nodes.");
    text
}

fn print_environment(path: &Path, format: Format) -> Result<(), Failure> {
    let variables = Announcement::read(path)?.environment();
    let json: serde_json::Map<_, _> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    format.print(&json, || {
        let mut lines = String::new();
        for (name, value) in &variables {
            let _ = writeln!(lines, "export {name}={}", quoted(Path::new(value)));
        }
        lines.push_str(&path_line());
        lines.trim_end().to_owned()
    })
}

/// Makes `conclave` itself known to the shell where it isn't.
fn path_line() -> String {
    let folder = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.to_owned()));
    let known = |folder: &PathBuf| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|part| part == *folder))
    };
    match folder {
        Some(folder) if !known(&folder) => format!("export PATH={}:\"$PATH\"", quoted(&folder)),
        _ => String::new(),
    }
}

/// As a POSIX shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-:,+@%=".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl From<DevError> for Failure {
    fn from(error: DevError) -> Self {
        Self::Other(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/a/b-c")), "/a/b-c");
        assert_eq!(quoted(Path::new("/a b")), "'/a b'");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }
}
