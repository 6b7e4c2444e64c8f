//! The command: one run, many runs, or sweeping up after harnesses that died.

use clap::{Args, Parser, Subcommand};
use conclave_jepsen::{
    HarnessError,
    checker::Verdict,
    cluster::{self, SlowLink},
    planted::PLANTED_FAULTS,
    report::{self, Summary},
    run::{self, RunOptions},
    schedule::Fault,
    workload::Workload,
};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Real conclave processes under real faults, and checkers of what clients saw.
///
/// Exit codes: 0 every promise was kept, 1 one was broken, 2 too little was done to tell, 3 the harness
/// itself failed.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run with one seed.
    Run(Run),
    /// Many runs, of three and five nodes, with all faults singly and mixed, each with a seed of its own.
    Soak(Soak),
    /// Judges again what a run left in its folder.
    Check {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Plants each fault in the product and demands that it is found. Needs a program with the feature
    /// `planted-faults`.
    Planted(Planted),
    /// The names of all faults.
    Faults,
    /// Carries what a node sends to others, slowly. The harness starts it within a node's namespace.
    #[command(hide = true)]
    SlowLinks {
        #[arg(value_name = "PORT/ADDRESS/DELAY_MS/KIB_PER_S")]
        links: Vec<SlowLink>,
    },
    /// Removes namespaces that dead harnesses left.
    Sweep {
        #[arg(long, hide = true, value_name = "NUMBER")]
        when_input_closes: Option<u8>,
    },
}

#[derive(Args, Clone)]
struct Program {
    /// The conclave program under test; default: the one beside this program.
    #[arg(long, value_name = "FILE")]
    conclave: Option<PathBuf>,
    /// The folder for everything that a run leaves; a run makes a folder in it, named by its seed.
    #[arg(long, value_name = "DIR", default_value = "target/jepsen")]
    output: PathBuf,
}

#[derive(Args, Clone)]
struct Shared {
    #[command(flatten)]
    program: Program,
    /// What clients do.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Workload::ALL)]
    workloads: Vec<Workload>,
    /// Faults whose names begin with one of these; default: all.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    shared: Shared,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: u8,
    /// How long faults strike.
    #[arg(long, default_value_t = 240)]
    seconds: u64,
    /// What everything is drawn from; default: the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Two faults at once: one of processes and disks, one of links, clocks and roles.
    #[arg(long)]
    mixed: bool,
}

#[derive(Args)]
struct Soak {
    #[command(flatten)]
    shared: Shared,
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// How long faults strike in each run.
    #[arg(long, default_value_t = 400)]
    seconds: u64,
    /// The seed of the first run; each further one is one more.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Args)]
struct Planted {
    #[command(flatten)]
    shared: Program,
    /// Only these; default: all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Faults => {
            Fault::all().iter().for_each(|fault| println!("{}", fault.name()));
            Ok(Verdict::Valid)
        }
        Command::Sweep { when_input_closes } => match when_input_closes {
            Some(number) => {
                cluster::watch_and_sweep(number);
                Ok(Verdict::Valid)
            }
            None => cluster::sweep_all().map(|()| Verdict::Valid),
        },
        Command::SlowLinks { links } => cluster::slow_links(&links).map(|()| Verdict::Valid),
        Command::Check { folder } => run::judge_again(&folder).map(|checks| {
            print!("{}", report::checks_for_people(&checks));
            let worst = checks.iter().map(|check| check.verdict).max();
            worst.unwrap_or(Verdict::Unknown)
        }),
        Command::Run(run) => one(&run),
        Command::Planted(planted) => plant(&planted),
        Command::Soak(soak) => many(&soak),
    };
    match result {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Invalid) => ExitCode::from(1),
        Ok(Verdict::Unknown) => ExitCode::from(2),
        Err(error) => {
            eprintln!("conclave-jepsen: {error}");
            ExitCode::from(3)
        }
    }
}

fn one(run: &Run) -> Result<Verdict, HarnessError> {
    cluster::enter_private_mounts()?;
    let seed = run.seed.unwrap_or_else(seed_of_now);
    let options = options(&run.shared, usize::from(run.nodes), run.seconds, seed, run.mixed)?;
    carry_out(&options).map(|summary| summary.verdict)
}

fn many(soak: &Soak) -> Result<Verdict, HarnessError> {
    cluster::enter_private_mounts()?;
    let first = soak.seed.unwrap_or_else(seed_of_now);
    let end = Instant::now() + Duration::from_secs_f64(soak.hours * 3_600.0);
    let mut verdicts = Vec::new();
    for seed in first.. {
        let (nodes, mixed) = if seed % 2 == 0 {
            (3, seed % 4 == 0)
        } else {
            (5, seed % 4 == 1)
        };
        let options = options(&soak.shared, nodes, soak.seconds, seed, mixed)?;
        verdicts.push((seed, nodes, mixed, carry_out(&options)?.verdict));
        if Instant::now() >= end {
            break;
        }
    }
    println!("{} runs:", verdicts.len());
    for (seed, nodes, mixed, verdict) in &verdicts {
        let how = if *mixed { "mixed" } else { "singly" };
        println!("  seed {seed}, {nodes} nodes, {how}: {verdict:?}");
    }
    let worst = verdicts.iter().map(|(.., verdict)| *verdict).max();
    Ok(worst.unwrap_or(Verdict::Unknown))
}

fn plant(planted: &Planted) -> Result<Verdict, HarnessError> {
    cluster::enter_private_mounts()?;
    let mut lines = Vec::new();
    let mut all_caught = true;
    let wanted = |name: &str| planted.only.is_empty() || planted.only.iter().any(|only| only == name);
    for fault in PLANTED_FAULTS.iter().filter(|fault| wanted(fault.name)) {
        eprintln!("planted: {}: {}", fault.name, fault.what);
        let shared = Shared {
            program: planted.shared.clone(),
            workloads: fault.workloads.to_vec(),
            faults: fault.faults.iter().map(|prefix| (*prefix).to_owned()).collect(),
        };
        let mut options = options(&shared, 3, fault.seconds, planted.seed, false)?;
        options.planted = Some(fault.name);
        options.output = planted.shared.output.join(format!("planted-{}", fault.name));
        let summary = carry_out(&options)?;
        let failed = summary
            .checks
            .iter()
            .filter(|check| check.verdict == Verdict::Invalid);
        let failed: Vec<&str> = failed.map(|check| check.name).collect();
        let caught = failed.iter().any(|check| fault.caught_by.contains(check));
        all_caught &= caught;
        let how = if caught { "caught" } else { "NOT CAUGHT" };
        lines.push(format!("  {}: {how} (failed: {})", fault.name, failed.join(", ")));
    }
    println!("planted faults:\n{}", lines.join("\n"));
    Ok(if all_caught && !lines.is_empty() {
        Verdict::Valid
    } else {
        Verdict::Invalid
    })
}

fn carry_out(options: &RunOptions) -> Result<Summary, HarnessError> {
    if options.output.exists() {
        let removed = std::fs::remove_dir_all(&options.output);
        removed.map_err(|error| HarnessError::about(options.output.display(), error))?;
    }
    // Nodes end with the thread that started them: this one.
    let runtime = tokio::runtime::Runtime::new().map_err(|error| HarnessError::about("tokio", error))?;
    let summary = runtime.block_on(run::run(options))?;
    println!(
        "{}{}",
        summary.for_people(),
        options.output.join("report.html").display()
    );
    Ok(summary)
}

fn options(
    shared: &Shared,
    nodes: usize,
    seconds: u64,
    seed: u64,
    mixed: bool,
) -> Result<RunOptions, HarnessError> {
    let wanted = |fault: &Fault| {
        let name = fault.name();
        shared.faults.is_empty()
            || shared
                .faults
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
    };
    let faults: Vec<Fault> = Fault::all().into_iter().filter(wanted).collect();
    if faults.is_empty() {
        return Err(HarnessError(
            "no fault has such a name; `faults` lists them".to_owned(),
        ));
    }
    let program = match &shared.program.conclave {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .map_err(|error| HarnessError::about("this program", error))?
            .with_file_name("conclave"),
    };
    let program = program
        .canonicalize()
        .map_err(|error| HarnessError::about(program.display(), error))?;
    let output = shared.program.output.join(format!("seed-{seed}"));
    let mut command = format!("conclave-jepsen run --nodes {nodes} --seconds {seconds} --seed {seed}");
    if mixed {
        command += " --mixed";
    }
    if !shared.faults.is_empty() {
        command += &format!(" --faults {}", shared.faults.join(","));
    }
    if shared.workloads != Workload::ALL {
        let names: Vec<&str> = shared.workloads.iter().map(|workload| workload.name()).collect();
        command += &format!(" --workloads {}", names.join(","));
    }
    if let Some(program) = &shared.program.conclave {
        command += &format!(" --conclave {}", program.display());
    }
    Ok(RunOptions {
        program,
        nodes,
        time: Duration::from_secs(seconds),
        seed,
        faults,
        mixed,
        workloads: shared.workloads.clone(),
        output,
        command,
        planted: None,
    })
}

fn seed_of_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |time| time.as_secs())
}
