//! What the GPU pane shows of readings that come through the monitor, as NVML's do: an 8-GPU box,
//! and every way in which there is nothing to read.
//!
//! The readings have the form of NVML's and are made up: no such machine was at hand.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;

use std::collections::VecDeque;

use deck_story::deck::{ASCII, Deck, UNICODE};
use loradeck::monitor::{GpuMonitor, GpuSource};
use loradeck::protocol::*;
use loradeck::ui::app::Msg;
use loradeck::ui::lang::Lang;

const SIZES: [(u16, u16); 5] = [(300, 100), (200, 60), (120, 40), (80, 24), (40, 12)];

/// Says one thing after another, as a driver would; the last one for ever.
struct Recorded(VecDeque<Result<Vec<GpuReading>, String>>);

impl GpuSource for Recorded {
    fn read(&mut self) -> Result<Vec<GpuReading>, String> {
        match self.0.len() {
            1 => self.0[0].clone(),
            _ => self.0.pop_front().unwrap_or_else(|| Ok(Vec::new())),
        }
    }
}

fn box_of_eight() -> Vec<GpuReading> {
    serde_json::from_str(include_str!("fixtures/nvml/8x_h100.json")).unwrap()
}

/// What a run on the third device is told, reading by reading.
fn read(readings: Vec<Result<Vec<GpuReading>, String>>) -> Vec<GpuStatus> {
    let n = readings.len();
    let mut monitor = GpuMonitor::new(Ok(Box::new(Recorded(readings.into()))), None);
    (0..n).map(|_| monitor.read("cuda:2", None, None)).collect()
}

/// The third device held back by heat and power, the fifth by its power supply.
fn throttling() -> Vec<GpuReading> {
    let mut gpus = box_of_eight();
    gpus[2].temperature = Some(91);
    gpus[2].clock = Some(990);
    gpus[2].throttling = vec!["thermal slowdown".into(), "power cap".into()];
    gpus[4].throttling = vec!["power brake".into()];
    gpus
}

fn at_every_size(name: &str, gpu: &GpuStatus) {
    for size in SIZES {
        let mut deck = Deck::running(size, UNICODE, gpu);
        deck.keys("3");
        insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), deck.screen());
    }
}

#[test]
fn eight_gpus_have_their_place_at_every_size() {
    let eight = read(vec![Ok(box_of_eight())]).remove(0);
    at_every_size("gpus_8", &eight);
    for (columns, rows) in [(120, 40), (300, 100)] {
        let mut deck = Deck::running((columns, rows), UNICODE, &eight);
        deck.keys("3<enter>");
        let name = format!("gpus_8_maximised_{columns}x{rows}");
        insta::assert_snapshot!(name, deck.screen());
    }
    let mut deck = Deck::running((80, 24), ASCII, &eight);
    deck.keys("3<enter>");
    insta::assert_snapshot!("gpus_8_ascii", deck.screen());
}

#[test]
fn a_device_that_is_held_back_says_by_what() {
    let hot = read(vec![Ok(throttling())]).remove(0);
    at_every_size("throttling", &hot);
    let mut deck = Deck::running((120, 40), UNICODE, &hot);
    deck.keys("3<enter>");
    insta::assert_snapshot!("throttling_maximised", deck.screen());
}

#[test]
fn without_nvml_the_pane_says_why() {
    let why = "the NVIDIA driver's library (libnvidia-ml.so.1) is not installed";
    let none = GpuMonitor::new(Err(why.into()), None).read("cpu", None, None);
    assert!(matches!(none, GpuStatus::NoNvml { .. }));
    at_every_size("no_nvml", &none);
    let mut deck = Deck::running((80, 24), UNICODE, &none);
    deck.app.lang = Lang::Chinese;
    deck.keys("3");
    insta::assert_snapshot!("no_nvml_zh", deck.screen());
}

#[test]
fn a_driver_without_a_device_is_no_missing_driver() {
    let none = read(vec![Ok(Vec::new())]).remove(0);
    assert_eq!(none, GpuStatus::NoDevice);
    at_every_size("no_device", &none);
}

/// A device that has answered and does no longer is lost; its history stays.
#[test]
fn a_device_that_falls_off_the_bus_is_lost() {
    let gone = "GPU is lost: reset or reboot".to_owned();
    let mut told = read(vec![Ok(box_of_eight()), Err(gone)]);
    let (lost, eight) = (told.remove(1), told.remove(0));
    assert!(matches!(lost, GpuStatus::Lost { .. }));
    for size in SIZES {
        let mut deck = Deck::running(size, UNICODE, &eight);
        let event = deck.story.event(EventKind::Hardware {
            gpu: lost.clone(),
            host: HostReading::default(),
        });
        deck.event(event);
        deck.send(Msg::Tick);
        deck.keys("3");
        insta::assert_snapshot!(format!("lost_{}x{}", size.0, size.1), deck.screen());
    }
}
