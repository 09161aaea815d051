//! A server that was started to be measured: its own folder, its own port, its own CPU. It is
//! killed when dropped, and when the generator is interrupted; nothing else ever is.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::unistd::Pid;

use crate::error::BenchError;
use crate::system::pin_thread;

/// Time a server has to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time it has to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Processes to kill when the generator is interrupted, and folders to remove then.
static STARTED: Mutex<Vec<(u32, Option<PathBuf>)>> = Mutex::new(Vec::new());

fn started() -> MutexGuard<'static, Vec<(u32, Option<PathBuf>)>> {
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
            for (pid, folder) in started().iter() {
                let _ = signal(*pid, Signal::SIGKILL);
                let _ = folder.as_ref().map(std::fs::remove_dir_all);
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

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
    folder: PathBuf,
    keep: bool,
    frozen: bool,
}

impl Server {
    /// Starts a program pinned to a CPU, its output in `folder/server.log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        mut command: Command,
        folder: &Path,
        cpu: usize,
        keep: bool,
    ) -> Result<Server, BenchError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |problem: io::Error| BenchError::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            problem: problem.to_string(),
        };
        let log = folder.join("server.log");
        let log = File::create(&log).map_err(BenchError::file(&log))?;
        let errors = log.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        // A child inherits CPU and signal mask from the thread that starts it.
        let scratch = (!keep).then(|| folder.to_owned());
        let starting = std::thread::spawn(move || {
            pin_thread(cpu)?;
            pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupts()), None)?;
            let child = command.spawn()?;
            started().push((child.id(), scratch));
            Ok(child)
        });
        let child = starting.join().expect("the closure has nothing to panic with");
        let child = child.map_err(|e: io::Error| BenchError::Program {
            program: name.clone(),
            problem: e.to_string(),
        })?;
        Ok(Server { child, name, folder: folder.to_owned(), keep, frozen: false })
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
        mut answers: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + START_TIMEOUT;
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
        let log = std::fs::read(self.folder.join("server.log")).unwrap_or_default();
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

    /// Whether it has ended by itself.
    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
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
        let pid = self.pid();
        started().retain(|(other, _)| *other != pid);
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path, keep: bool) -> Server {
        let mut command = Command::new("sleep");
        command.arg("600");
        Server::start(command, folder, 0, keep).unwrap()
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_server_is_pinned_and_gone_with_its_folder_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        std::fs::create_dir(&folder).unwrap();
        let mut server = sleeper(&folder, false);
        let pid = server.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let cpus = status.lines().find(|l| l.starts_with("Cpus_allowed_list")).unwrap();
        assert_eq!(cpus.split_whitespace().last(), Some("0"));
        server.freeze().unwrap();
        let registered = || started().iter().any(|(other, _)| *other == pid);
        assert!(registered());
        drop(server);
        assert!(!alive(pid) && !folder.exists() && !registered());
    }

    #[test]
    fn a_server_that_ends_early_is_reported_with_its_log() {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option; exit 3"]);
        let mut server = Server::start(command, root.path(), 0, true).unwrap();
        let refused = || Err(BenchError::Server("connection refused".to_owned()));
        let error = server.wait_ready(refused).unwrap_err().to_string();
        assert!(error.contains("no such option") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let command = Command::new("/no/such/program");
        let error = Server::start(command, root.path(), 0, true).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }
}
