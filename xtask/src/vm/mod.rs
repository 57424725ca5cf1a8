//! `cargo xtask test vm`: the stories under other kernels, in virtual machines that are made here
//! out of Debian's packages.
//!
//! Everything is kept below `target/vm`: a kernel and the user space are made once, the disk with
//! the programs under test at every run. A guest is judged by what it says at its end alone: see
//! `console.rs`.

mod console;
mod cpio;
mod cut;
mod disk;
mod guest;
mod kernel;
mod matrix;
mod plan;
mod programs;
mod report;
mod switch;
mod userland;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use self::console::{Account, Verdict};
use self::guest::{Guest, Machine, Scratch, Seat};
use self::kernel::Boot;
use self::matrix::{Kernel, Matrix};
use self::plan::{Plan, Stories};
use self::programs::Programs;
use self::report::{Report, Run};
use self::switch::{First, Script};
use self::userland::Userland;
use crate::test::Tally;
use crate::workspace;

const MATRIX: &str = "kernel-tests/kernels.toml";
const PAGE: &str = "docs/kernel-support.md";
/// How long a guest may take with everything, and beside others on a switch.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
const TOGETHER_LIMIT: Duration = Duration::from_secs(1600);
/// How long a program may take in it: somebody's own, and a story of several guests.
const FOREIGN_SECONDS: u32 = 3600;
const TOGETHER_SECONDS: u32 = 1500;
/// How many guests there are at a time where nothing is measured: each has one processor.
const AT_ONCE: usize = 2;
/// How often, and under which kernel, the power is cut in the quick tests.
const FEW_CUTS: u32 = 2;
const CUT_KERNEL: &str = "6.1";
/// What quick tests make a host of, by `kernel-tests/guests/provision.sh`: Vagrant's machines have
/// this kernel.
const PROVISION: &str = "provision";
const INSTALLED_KERNEL: &str = "6.1";
/// How lines begin that stories have measured.
const FIGURE: &str = "figure: ";
/// What a story may write to one of the empty disks.
const SCRATCH_BYTES: u64 = 4 << 30;

/// What to run in guests.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Under these kernels of kernel-tests/kernels.toml; all of them when absent.
    #[arg(long, value_name = "NAME|all")]
    kernel: Vec<String>,
    /// Stories whose name, or whose program's, contains this, or one of several.
    #[arg(long, value_name = "NAME")]
    story: Vec<String>,
    /// The few stories that tell most about a kernel.
    #[arg(long, conflicts_with = "story")]
    quick: bool,
    /// Run this program or script in guests instead, beside a daemon.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["story", "quick"])]
    exec: Option<PathBuf>,
    /// Cut the power of guests this often while they commit layers, on each kind of store, or with
    /// --story on those whose name contains it.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["quick", "exec"])]
    cuts: Option<u32>,
    /// Write what was found into docs/kernel-support.md, where the rest stays as it is.
    #[arg(long, conflicts_with_all = ["exec", "cuts"])]
    write_docs: bool,
    /// Arguments of the program.
    #[arg(last = true, requires = "exec")]
    arguments: Vec<String>,
}

impl Options {
    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.kernel.is_empty()
            && self.story.is_empty()
            && self.exec.is_none()
            && !self.quick
            && self.cuts.is_none()
            && !self.write_docs
    }
}

/// The few stories that tell most, under every kernel.
pub(crate) fn run_quick(bin: &Path) -> Result<Tally> {
    let quick = Options {
        quick: true,
        ..Options::default()
    };
    let cuts = Options {
        kernel: vec![CUT_KERNEL.to_owned()],
        cuts: Some(FEW_CUTS),
        ..Options::default()
    };
    let provision = Options {
        kernel: vec![INSTALLED_KERNEL.to_owned()],
        story: vec![PROVISION.to_owned()],
        ..Options::default()
    };
    Ok(run(bin, &quick)? + run(bin, &cuts)? + run(bin, &provision)?)
}

/// What `options` ask for.
pub(crate) fn run(bin: &Path, options: &Options) -> Result<Tally> {
    let bench = Bench::set_up(bin, &options.kernel)?;
    let names = options.story.as_slice();
    if let Some(program) = &options.exec {
        let mut plan = Plan::default();
        plan.daemon();
        plan.script("exec/run", &program.display().to_string(), FOREIGN_SECONDS);
        bench.programs.add_foreign(program, &options.arguments)?;
        return bench
            .run(&plan, LIMIT, Shown::Everything, 1)
            .map(|(tally, _)| tally);
    }
    if let Some(count) = options.cuts {
        return bench.cut(count, names);
    }
    let stories = bench.stories(options.quick, names)?;
    let scripts = if options.quick {
        Vec::new()
    } else {
        switch::scripts(names)?
    };
    ensure!(
        !(stories.tests.is_empty() && scripts.is_empty()),
        "no story is called {}",
        names.join(" or ")
    );
    let mut parts = BTreeMap::new();
    let mut known = Vec::new();
    if options.write_docs {
        parts = bench.stories(false, &[])?.counts();
        known = switch::scripts(&[])?;
    }
    let write = |change: &dyn Fn(&mut Report)| match options.write_docs {
        true => report::write(&workspace::root().join(PAGE), &bench.matrix, |report| {
            change(report);
            report.keep(&parts, &known);
        }),
        false => Ok(()),
    };
    let mut tally = Tally::default();
    if !stories.tests.is_empty() {
        let plan = bench.plan(&stories, names.is_empty())?;
        let (counted, runs) = bench.run(&plan, LIMIT, Shown::Failures, AT_ONCE)?;
        tally += counted;
        write(&|report| runs.iter().for_each(|run| report.take(run, &parts)))?;
    }
    for script in scripts {
        for (kernel, counted) in bench.run_together(&script)? {
            tally += counted;
            write(&|report| report.take_script(kernel, &script.name, counted.failed == 0))?;
        }
    }
    Ok(tally)
}

/// What of the console is printed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Failures,
    Everything,
}

/// Kernels that are ready to boot, and what they boot with.
struct Bench {
    home: PathBuf,
    /// Two at once would write one disk. The kernel lets go of it with the process.
    _lock: File,
    matrix: Matrix,
    kernels: Vec<usize>,
    userland: Userland,
    boots: Vec<Boot>,
    programs: Programs,
    scratch: [PathBuf; 2],
}

fn lock(home: &Path) -> Result<File> {
    fs::create_dir_all(home)?;
    let path = home.join("lock");
    let file = File::create(&path)?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

impl Bench {
    fn set_up(bin: &Path, names: &[String]) -> Result<Self> {
        let home = workspace::target_dir().join("vm");
        let lock = lock(&home)?;
        let matrix = Matrix::read(&workspace::root().join(MATRIX))?;
        let kernels = matrix.select(names)?;
        let userland = Userland::prepare(&home)?;
        let boots = kernels
            .iter()
            .map(|index| kernel::prepare(&home, &matrix.kernels[*index], &userland))
            .collect::<Result<Vec<Boot>>>()?;
        let programs = Programs::gather(&home, bin)?;
        // Writes go elsewhere, so that one does for all.
        let scratch = disk::empty(&home, "scratch.img", SCRATCH_BYTES)?;
        let scratch = [scratch.clone(), scratch];
        Ok(Self {
            home,
            _lock: lock,
            matrix,
            kernels,
            userland,
            boots,
            programs,
            scratch,
        })
    }

    fn stories(&self, quick: bool, names: &[String]) -> Result<Stories> {
        Stories::select(&self.matrix.stories.selection(quick), names)
    }

    /// `stories`, and what the kernel has and the daemon makes of it if they are not but a few.
    fn plan(&self, stories: &Stories, whole: bool) -> Result<Plan> {
        self.programs.add_stories(stories)?;
        let mut plan = Plan::default();
        if whole {
            plan.features();
        }
        plan.stories(stories, self.matrix.stories.limit);
        if whole {
            plan.daemon();
            plan.info();
        }
        Ok(plan)
    }

    /// `plan` under each kernel, some of them `at_once`.
    fn run(
        &self,
        plan: &Plan,
        limit: Duration,
        shown: Shown,
        at_once: usize,
    ) -> Result<(Tally, Vec<Run<'_>>)> {
        let disk = self.programs.disk(plan)?;
        let machines = self.machines(disk, "").collect();
        let runs = side_by_side(machines, at_once, |(kernel, machine)| {
            let logs = self.logs(kernel);
            let seat = Seat {
                number: 1,
                of: 1,
                wires: &logs,
            };
            let mut guest = Guest::start(machine, seat, &logs, limit)?;
            let account = guest.follow(|verdict| tell(&kernel.name, verdict))?;
            let tally = judge(kernel, &account, &guest)?;
            if shown == Shown::Everything {
                print!("{}", guest.console()?);
            }
            Ok((tally, Run { kernel, account }))
        })?;
        let tally = runs.iter().map(|(tally, _)| *tally).sum();
        Ok((tally, runs.into_iter().map(|(_, run)| run).collect()))
    }

    /// `script` in as many guests as it wants, under one kernel after the other.
    fn run_together(&self, script: &Script) -> Result<Vec<(&Kernel, Tally)>> {
        let mut plan = Plan::default();
        plan.script("exec/script", &script.name, TOGETHER_SECONDS);
        self.programs.add_script("script", &script.text)?;
        for (name, text) in switch::common()? {
            self.programs.add_script(&name, &text)?;
        }
        if script.first == First::Systemd {
            self.programs.add_stage()?;
        }
        let disk = self.programs.disk(&plan)?;
        let larger = match script.packages.as_slice() {
            [] => None,
            packages => Some(Userland::with(&self.home, packages)?),
        };
        let mut tallies = Vec::new();
        for (kernel, machine) in self.machines(disk, script.first.environment()) {
            let machine = Machine {
                userland: larger.as_ref().unwrap_or(machine.userland),
                ..machine
            };
            let logs = self.logs(kernel).join(&script.name);
            let tell =
                |number, verdict: &Verdict| tell(&format!("{}/{number}", kernel.name), verdict);
            let mut tally = Tally::default();
            for (guest, account) in
                switch::run(machine, script.guests, &logs, TOGETHER_LIMIT, tell)?
            {
                tally += judge(kernel, &account, &guest)?;
            }
            tallies.push((kernel, tally));
        }
        Ok(tallies)
    }

    fn machines<'a>(
        &'a self,
        disk: &'a Path,
        environment: &'a str,
    ) -> impl Iterator<Item = (&'a Kernel, Machine<'a>)> {
        self.kernels
            .iter()
            .zip(&self.boots)
            .map(move |(index, boot)| {
                let machine = Machine {
                    boot,
                    userland: &self.userland,
                    programs: disk,
                    scratch: Scratch {
                        disks: &self.scratch,
                        keeps: false,
                    },
                    environment,
                };
                (&self.matrix.kernels[*index], machine)
            })
    }

    fn logs(&self, kernel: &Kernel) -> PathBuf {
        self.home.join("logs").join(&kernel.name)
    }
}

/// What `job` makes of each item, `at_once` of them at a time, in the items' order.
fn side_by_side<I: Send, O: Send>(
    items: Vec<I>,
    at_once: usize,
    job: impl Fn(I) -> Result<O> + Sync,
) -> Result<Vec<O>> {
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((number, item)) = next() {
            done.push((number, job(item)?));
        }
        Ok(done)
    };
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut done = Vec::new();
        for worker in workers {
            let part: Result<Vec<_>> = worker
                .join()
                .map_err(|_panic| anyhow!("what runs a guest has panicked"))?;
            done.extend(part?);
        }
        Ok::<_, anyhow::Error>(done)
    })?;
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, made)| made).collect())
}

/// One line for what has just happened in a guest.
fn tell(guest: &str, verdict: &Verdict) {
    let seconds = |centiseconds: u64| format!("{}.{:02} s", centiseconds / 100, centiseconds % 100);
    match verdict {
        Verdict::Kernel(version) => println!("{guest:>6}  up, Linux {version}"),
        Verdict::Passed { id, centiseconds } => {
            println!("{guest:>6}  passed {:>9}  {id}", seconds(*centiseconds));
        }
        Verdict::Failed {
            id,
            centiseconds,
            code,
        } => {
            let took = seconds(*centiseconds);
            println!("{guest:>6}  FAILED {took:>9}  {id} (exit code {code})");
        }
        Verdict::Info(line) if line.starts_with(FIGURE) => println!("{guest:>6}  {line}"),
        Verdict::Begin(_) | Verdict::Feature { .. } | Verdict::Info(_) | Verdict::Done { .. } => {}
    }
}

fn judge(kernel: &Kernel, account: &Account, guest: &Guest) -> Result<Tally> {
    let troubles = account.troubles(&guest.console()?, &kernel.features);
    for what in troubles.iter().chain(&account.failed) {
        println!("not ok - Linux {}: {what}", kernel.name);
    }
    let failed = (account.failed.len() + troubles.len()) as u64;
    if failed > 0 {
        guest.show_end()?;
    }
    Ok(Tally {
        passed: account.passed.len() as u64,
        failed,
    })
}
