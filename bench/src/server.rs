//! A server that was started to be measured: its own folder, its own port, its own CPUs. It is
//! killed when dropped, and when the generator is interrupted; nothing else ever is. Its folder is
//! removed when nothing uses it any more, and when the generator is interrupted.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::unistd::Pid;

use crate::error::BenchError;
use crate::system::pin_thread_to;

/// Time a server has to answer after its start, where nobody asks for another.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time it has to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a server that starts or ends. Start-up times are measured by it.
const POLL: Duration = Duration::from_millis(5);

/// What has to go when the generator is interrupted.
struct Started {
    pids: Vec<u32>,
    folders: Vec<PathBuf>,
}

static STARTED: Mutex<Started> = Mutex::new(Started { pids: Vec::new(), folders: Vec::new() });

fn started() -> MutexGuard<'static, Started> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on SIGINT and SIGTERM kill the servers that were started before the generator ends.
/// Call it before any thread is started: threads inherit the mask.
///
/// # Errors
/// The mask or the thread cannot be set up.
pub fn clean_up_when_interrupted() -> Result<(), BenchError> {
    let signals = interrupts();
    let doing = "watching for interrupts";
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
        .map_err(|e| BenchError::system(doing)(e.into()))?;
    let watch = move || {
        if signals.wait().is_ok() {
            let started = started();
            for pid in &started.pids {
                let _ = signal(*pid, Signal::SIGKILL);
            }
            for folder in &started.folders {
                let _ = std::fs::remove_dir_all(folder);
            }
            std::process::exit(130);
        }
    };
    let spawned = std::thread::Builder::new().name("interrupts".to_owned()).spawn(watch);
    spawned.map(|_| ()).map_err(BenchError::system(doing))
}

fn interrupts() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// A port nobody listens on at this moment.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16, BenchError> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(BenchError::system("looking for a free port"))?;
    let addr = listener.local_addr().map_err(BenchError::system("looking for a free port"))?;
    Ok(addr.port())
}

/// A fresh folder for what is measured. Removed with all its content when dropped, unless it is
/// to be kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes one under `root`, which is made too.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(root: &Path, name: &str, keep: bool) -> Result<Arc<Scratch>, BenchError> {
        std::fs::create_dir_all(root).map_err(BenchError::file(root))?;
        // Servers are started in it: a relative path would mean another folder there.
        let root = root.canonicalize().map_err(BenchError::file(root))?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&root)
            .map_err(BenchError::file(&root))?
            .keep();
        if !keep {
            started().folders.push(path.clone());
        }
        Ok(Arc::new(Scratch { path, keep }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
            started().folders.retain(|other| *other != self.path);
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
    scratch: Arc<Scratch>,
    frozen: bool,
}

impl Server {
    /// Starts a program that may use these CPUs only (none: all of them), its output in
    /// `server.log` of the folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        mut command: Command,
        scratch: &Arc<Scratch>,
        cpus: &[usize],
    ) -> Result<Server, BenchError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |problem: io::Error| BenchError::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            problem: problem.to_string(),
        };
        let log = scratch.path.join("server.log");
        let log =
            File::options().create(true).append(true).open(&log).map_err(BenchError::file(&log))?;
        let errors = log.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        // A child inherits CPUs and signal mask from the thread that starts it.
        let cpus = cpus.to_vec();
        let starting = std::thread::spawn(move || {
            pin_thread_to(&cpus)?;
            pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupts()), None)?;
            let child = command.spawn()?;
            started().pids.push(child.id());
            Ok(child)
        });
        let child = starting.join().expect("the closure has nothing to panic with");
        let child = child.map_err(|e: io::Error| BenchError::Program {
            program: name.clone(),
            problem: e.to_string(),
        })?;
        Ok(Server { child, name, scratch: Arc::clone(scratch), frozen: false })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `answers` succeeds.
    ///
    /// # Errors
    /// The server ended, or does not answer in time; with the end of its log.
    pub fn wait_ready(
        &mut self,
        timeout: Duration,
        mut answers: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + timeout;
        loop {
            let Err(error) = answers() else { return Ok(()) };
            let ended = self.child.try_wait().map_err(BenchError::system("waiting"))?;
            if ended.is_some() || Instant::now() > deadline {
                let state = ended.map_or("no answer in time".to_owned(), |s| s.to_string());
                let problem = format!("{state}: {error}; its log ends with:\n{}", self.log_end());
                return Err(BenchError::Program { program: self.name.clone(), problem });
            }
            std::thread::sleep(POLL);
        }
    }

    fn log_end(&self) -> String {
        let log = std::fs::read(self.scratch.path.join("server.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Stops it from running while another server is measured.
    ///
    /// # Errors
    /// It is gone.
    pub fn freeze(&mut self) -> Result<(), BenchError> {
        self.frozen = true;
        signal(self.pid(), Signal::SIGSTOP).map_err(BenchError::system("freezing a server"))
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// It is gone.
    pub fn thaw(&mut self) -> Result<(), BenchError> {
        self.frozen = false;
        signal(self.pid(), Signal::SIGCONT).map_err(BenchError::system("thawing a server"))
    }

    /// Sends SIGKILL; the process is there, as a zombie, until it is waited for.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal_kill(&self) -> Result<(), BenchError> {
        signal(self.pid(), Signal::SIGKILL).map_err(BenchError::system("killing a server"))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(mut self) -> Result<(), BenchError> {
        self.child.kill().map_err(BenchError::system("killing a server"))?;
        self.child.wait().map_err(BenchError::system("waiting for a killed server"))?;
        Ok(())
    }

    /// Asks it to end and waits until it has; returns how long that took.
    ///
    /// # Errors
    /// It does not end in time, or with another status than success.
    pub fn stop(mut self, timeout: Duration) -> Result<Duration, BenchError> {
        let began = Instant::now();
        signal(self.pid(), Signal::SIGTERM).map_err(BenchError::system("stopping a server"))?;
        let failed = |server: &Server, what: String| BenchError::Program {
            program: server.name.clone(),
            problem: format!("{what}; its log ends with:\n{}", server.log_end()),
        };
        loop {
            let ended = self.child.try_wait().map_err(BenchError::system("waiting"))?;
            match ended {
                Some(status) if status.success() => return Ok(began.elapsed()),
                Some(status) => return Err(failed(&self, format!("ended with {status}"))),
                None if began.elapsed() > timeout => {
                    return Err(failed(&self, format!("did not end within {timeout:?}")));
                }
                None => std::thread::sleep(POLL),
            }
        }
    }

    /// Whether it has ended by itself.
    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended() {
            if self.frozen {
                let _ = self.thaw();
            }
            let _ = signal(self.pid(), Signal::SIGTERM);
            let deadline = Instant::now() + STOP_TIMEOUT;
            while !self.ended() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let pid = self.pid();
        started().pids.retain(|other| *other != pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(scratch: &Arc<Scratch>) -> Server {
        let mut command = Command::new("sleep");
        command.arg("600");
        Server::start(command, scratch, &[0]).unwrap()
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_server_is_pinned_and_gone_with_its_folder_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), "a", false).unwrap();
        let folder = scratch.path().to_owned();
        let mut server = sleeper(&scratch);
        drop(scratch);
        let pid = server.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let cpus = status.lines().find(|l| l.starts_with("Cpus_allowed_list")).unwrap();
        assert_eq!(cpus.split_whitespace().last(), Some("0"));
        server.freeze().unwrap();
        let registered = || {
            let started = started();
            (started.pids.contains(&pid), started.folders.contains(&folder))
        };
        assert_eq!(registered(), (true, true));
        drop(server);
        assert!(!alive(pid) && !folder.exists());
        assert_eq!(registered(), (false, false));
    }

    #[test]
    fn a_killed_server_leaves_its_folder_to_whoever_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), "a", false).unwrap();
        let server = sleeper(&scratch);
        let pid = server.pid();
        server.kill().unwrap();
        assert!(!alive(pid) && scratch.path().join("server.log").exists());
    }

    #[test]
    fn a_server_that_ends_with_a_failure_was_not_stopped() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), "a", false).unwrap();
        // A signal that nobody handles is no clean end.
        let error = sleeper(&scratch).stop(Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("signal: 15"), "{error}");
    }

    #[test]
    fn a_server_that_ends_early_is_reported_with_its_log() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), "a", false).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option; exit 3"]);
        let mut server = Server::start(command, &scratch, &[]).unwrap();
        let refused = || Err(BenchError::Server("connection refused".to_owned()));
        let error = server.wait_ready(START_TIMEOUT, refused).unwrap_err().to_string();
        assert!(error.contains("no such option") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(root.path(), "a", false).unwrap();
        let command = Command::new("/no/such/program");
        let error = Server::start(command, &scratch, &[0]).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }
}
