//! From nothing to ready, and from ready to stopped.

use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{self, Node};
use crate::config::{Config, Contents};
use crate::explain::explain;
use crate::process::{POLL, wait_for};
use crate::report::{self, say, step};
use crate::state::Volume;
use crate::{dockerd, health, images, machine, pods, release};

/// `docker stop` allows ten seconds. What has not stopped by then, for whatever reason, ends with this process.
const STOP: Duration = Duration::from_secs(9);
const STOP_NODE: Duration = Duration::from_secs(7);

static DOCKERD: Mutex<Option<Child>> = Mutex::new(None);

pub fn run() -> Result<(), String> {
    stop_on_signal();
    boot().and_then(|()| watch()).inspect_err(|_| {
        // What fails now fails because of the stop, which ends the process itself.
        while report::STOPPING.load(Ordering::Relaxed) {
            thread::sleep(POLL);
        }
    })
}

fn boot() -> Result<(), String> {
    let start = Instant::now();
    let contents = Contents::read()?;
    report::banner(&contents);
    machine::check_privileged()?;
    let mut volume = Volume::open()?;
    volume.refuse_downgrade(&contents)?;
    let config = Config::read(&contents)?;
    volume.refuse_forgotten_values(&config)?;
    machine::check(&config, volume.state.node.is_none())?;

    steps(&contents, &config, &mut volume).inspect_err(|_| {
        if !report::STOPPING.load(Ordering::Relaxed) {
            explain();
        }
    })?;
    say(&format!("Ready after {:.0} s:", start.elapsed().as_secs_f64()));
    say(&report::urls());
    Ok(())
}

fn steps(contents: &Contents, config: &Config, volume: &mut Volume) -> Result<(), String> {
    step(
        1,
        "docker",
        || None,
        || {
            machine::prepare()?;
            *DOCKERD.lock().unwrap() = Some(dockerd::start(&config.address_pool)?);
            Ok(())
        },
    )?;
    step(2, "node image", || None, || images::load_node(contents))?;
    let importing = step(
        3,
        "cluster",
        || None,
        || {
            let node = Node::find_or_clear(config, contents, volume)?;
            // In parallel: the node's containerd answers long before the whole node does.
            let images = contents.images.clone();
            let importing = thread::spawn(move || images::import(&images));
            node.start(contents, volume)?;
            Ok(importing)
        },
    )?;
    step(4, "images", || None, || importing.join().expect("it does not panic"))?;
    step(5, "release", || None, || release::install(config))?;
    step(
        6,
        "ready",
        || pods::waiting_for().or_else(|| health::api().err()),
        || {
            release::wait_until_ready()?;
            // The kubelet is running, so k3s has already removed its own pins, which it does at each start.
            images::pin(&contents.images)
                .unwrap_or_else(|error| say(&format!("Images could not be pinned: {error}")));
            Ok(())
        },
    )
}

/// The container lives as long as dockerd does.
fn watch() -> Result<(), String> {
    loop {
        if let Some(dockerd) = DOCKERD.lock().unwrap().as_mut()
            && let Ok(Some(status)) = dockerd.try_wait()
        {
            return Err(format!("dockerd ended with {status}: {}", dockerd::last_words()));
        }
        thread::sleep(POLL * 20);
    }
}

fn stop_on_signal() {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    // Before any other thread exists, so that they all inherit it.
    signals.thread_block().expect("signals can be blocked");
    thread::spawn(move || {
        _ = signals.wait();
        let start = Instant::now();
        report::STOPPING.store(true, Ordering::Relaxed);
        say("Stopping");
        let (done, is_done) = channel::<()>();
        thread::spawn(move || {
            stop();
            drop(done);
        });
        _ = is_done.recv_timeout(STOP);
        say(&format!("Stopped in {:.1} s", start.elapsed().as_secs_f64()));
        std::process::exit(0);
    });
}

fn stop() {
    if dockerd::answers() {
        cluster::stop(STOP_NODE);
    }
    if let Ok(mut dockerd) = DOCKERD.try_lock()
        && let Some(dockerd) = dockerd.as_mut()
    {
        _ = kill(Pid::from_raw(dockerd.id().cast_signed()), Signal::SIGTERM);
        _ = wait_for(STOP, || dockerd.try_wait().ok().flatten());
    }
}
