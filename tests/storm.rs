//! The demo's run, again and again without an end, while decks come and go in every way: after
//! `LORADECK_STORM_MINUTES` (`LORADECK_STORM_MINUTES=120 cargo test --test storm -- --nocapture`)
//! neither the runner nor a deck that stays has more memory, descriptors or threads than at first.

mod program;

use std::fs;
use std::time::{Duration, Instant};

use loradeck::random::{Purpose, Stream};
use program::terminal::Terminal;
use program::{Scratch, kill, repository, text};

const MIB: f64 = (1 << 20) as f64;

#[derive(Clone, Copy, Debug)]
struct Usage {
    mib: f64,
    descriptors: usize,
    threads: usize,
}

fn usage(pid: u64) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
        .unwrap();
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    Usage {
        mib: kib.trim().parse::<f64>().unwrap() * 1024.0 / MIB,
        descriptors: count("fd"),
        threads: count("task"),
    }
}

/// The demo's own config with an end that is far away; everything that happens in it happens often.
fn scratch() -> Scratch {
    let scratch = Scratch::new("");
    let demo = fs::read_to_string(repository().join("configs/demo.yaml")).unwrap();
    let kept: Vec<&str> = demo
        .lines()
        .filter(|l| {
            !["epochs:", "output_dir:", "train_data_dir:"]
                .iter()
                .any(|key| l.starts_with(key))
        })
        .collect();
    let config = format!(
        "{}\nepochs: 100000\nkeep_checkpoints: 3\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\n",
        kept.join("\n"),
        repository().join("configs/demo").display(),
        scratch.run.display()
    );
    fs::write(&scratch.config, config).unwrap();
    scratch
}

/// A visit of one kind or another; the deck's ways to go are its key, a signal and its terminal.
fn visit(scratch: &Scratch, stream: &mut Stream) {
    let run = scratch.run.to_str().unwrap();
    let stay = Duration::from_millis(u64::from(stream.below(400)));
    match stream.below(8) {
        0 => drop(scratch.output(&["status", run])),
        1 => drop(scratch.output(&["status", run, "--json"])),
        2 => drop(scratch.send(&["checkpoint"])),
        3 => drop(scratch.send(&["set", "learning_rate=1e-4"])),
        way => {
            let columns = 40 + stream.below(160) as u16;
            let mut deck = Terminal::open(scratch, columns, 12 + columns / 5, &["attach", run]);
            // Some go before there is a picture.
            if way > 4 {
                deck.wait_until("a picture", |s| s.trim().len() > 40);
            }
            std::thread::sleep(stay);
            match way {
                5 => deck.keys("q"),
                6 => kill(u64::from(deck.child.process_id().unwrap()), "KILL"),
                _ => {
                    deck.let_go
                        .store(true, std::sync::atomic::Ordering::Relaxed);
                    deck.master = None;
                    drop(std::mem::replace(
                        &mut deck.writer,
                        Box::new(std::io::sink()),
                    ));
                    kill(u64::from(deck.child.process_id().unwrap()), "HUP");
                }
            }
            deck.ends_within(Duration::from_secs(30));
        }
    }
}

#[test]
fn hours_of_the_demo_with_decks_that_come_and_go_leave_nothing_behind() {
    let minutes: f64 = std::env::var("LORADECK_STORM_MINUTES")
        .ok()
        .and_then(|m| m.parse().ok())
        .unwrap_or(0.2);
    let scratch = scratch();
    scratch.detach();
    let pid = scratch.wait_for_step(1)["pid"].as_u64().unwrap();
    let run = scratch.run.to_str().unwrap();
    let staying = Terminal::open(&scratch, 120, 40, &["attach", run]);
    staying.wait_for("step");
    let deck = u64::from(staying.child.process_id().unwrap());
    let start = Instant::now();
    let elapsed = || start.elapsed().as_secs_f64() / 60.0;
    let mut stream = Stream::new(1, Purpose::Sampling, 0, 0);
    let (mut visits, mut said) = (0u64, 0.0);
    let mut usages: Vec<[Usage; 2]> = Vec::new();
    while elapsed() < minutes {
        visit(&scratch, &mut stream);
        visits += 1;
        // What the deck has sent is not needed.
        staying.raw.lock().unwrap().clear();
        if elapsed() >= said {
            // Between visits: the threads of the last one have a moment to end.
            std::thread::sleep(Duration::from_millis(300));
            let both = [usage(pid), usage(deck)];
            println!(
                "{:.1} min, step {}, {visits} visits: runner {:?}, deck {:?}",
                elapsed(),
                scratch.step(),
                both[0],
                both[1]
            );
            usages.push(both);
            said = elapsed() + minutes / 60.0;
        }
    }
    let out = scratch.send(&["stop", "discard"]);
    assert!(out.status.success(), "{}", text(&out));
    let (early, late) = usages.split_at(usages.len().div_ceil(2));
    for (who, i) in [("runner", 0), ("deck", 1)] {
        let most = |part: &[[Usage; 2]], of: fn(&Usage) -> f64| {
            part.iter().map(|u| of(&u[i])).fold(0.0, f64::max)
        };
        for (what, of, spare) in [
            ("MiB", (|u| u.mib) as fn(&Usage) -> f64, 8.0),
            ("descriptors", |u| u.descriptors as f64, 4.0),
            ("threads", |u| u.threads as f64, 4.0),
        ] {
            let (before, after) = (most(early, of), most(late, of));
            println!(
                "{who}: at most {before:.0} {what} in the first half, {after:.0} in the second"
            );
            assert!(
                after <= before * 1.1 + spare,
                "{who}: {what} grew from {before} to {after}"
            );
        }
    }
}
