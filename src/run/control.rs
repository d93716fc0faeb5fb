//! The way to the trainer: commands, edited configs and signals, each answered exactly once.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::config::{self, RunConfig};
use crate::protocol::{Command, ConfigChange, EventKind};
use crate::train::{Control, Reporter};

use super::hub::Hub;

/// Commands that may wait for the trainer.
const COMMANDS: u64 = 64;

const ENDED: &str = "the run has ended";

/// The sending end of the trainer's [`Control`] channel, open until the trainer has returned.
#[derive(Clone)]
pub struct Gate {
    hub: Hub,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    controls: Option<Sender<Control>>,
    /// Commands taken in so far; each gets one `Ack`.
    asked: u64,
    /// The config as the trainer has it once it has taken everything sent.
    running: RunConfig,
}

impl Gate {
    /// A gate and the receiver for the trainer.
    pub fn new(hub: Hub, running: RunConfig) -> (Gate, Receiver<Control>) {
        let (sender, receiver) = mpsc::channel();
        let gate = Gate {
            hub,
            inner: Arc::new(Mutex::new(Inner {
                controls: Some(sender),
                asked: 0,
                running,
            })),
        };
        (gate, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Hands a command to the trainer, which acks it; one that cannot be taken is acked here.
    pub fn command(&self, id: u64, sender: &str, command: Command) {
        let mut inner = self.lock();
        let waiting = inner.asked.saturating_sub(self.hub.acks());
        inner.asked += 1;
        if waiting >= COMMANDS {
            let why = format!(
                "{COMMANDS} commands wait for the trainer already; send it again when they are answered"
            );
            return self.refuse(id, sender, &command, &why);
        }
        if let Command::Set { key, value } = &command {
            match config::set_live(&inner.running, key, value) {
                Ok(running) => inner.running = running,
                Err(why) => return self.refuse(id, sender, &command, &why),
            }
        }
        let control = Control::Command {
            id,
            sender: sender.to_owned(),
            command,
        };
        if let Err(Control::Command { command, .. }) = inner.send(control) {
            self.refuse(id, sender, &command, ENDED);
        }
    }

    /// Counts a command whose `Ack` does not come from the trainer.
    pub fn answered_elsewhere(&self) {
        self.lock().asked += 1;
    }

    /// Takes over the changes of an edited config file that may act during the run. A key that was
    /// set by a command keeps that value until its line in the file changes.
    pub fn edited(&self, changes: &[ConfigChange], edited: &RunConfig) {
        let mut inner = self.lock();
        let mut running = inner.running.clone();
        for change in changes.iter().filter(|c| c.applies != "restart") {
            match config::set_live(&running, &change.key, &change.new) {
                Ok(changed) => running = changed,
                // Not a key of a single value: take all of the file's.
                Err(_) => config::apply_live(&mut running, edited),
            }
        }
        if running != inner.running {
            inner.running = running.clone();
            // After the end there is nobody to care.
            let _ = inner.send(Control::Config(Box::new(running)));
        }
    }

    /// A signal that ends the run; false when the trainer has returned already.
    pub fn signal(&self, number: i32) -> bool {
        self.lock().send(Control::Signal { number }).is_ok()
    }

    /// Closes the gate after the trainer has returned: what it has not read is refused.
    pub fn close(&self, unread: &Receiver<Control>) {
        self.lock().controls = None;
        while let Ok(control) = unread.try_recv() {
            if let Control::Command {
                id,
                sender,
                command,
            } = control
            {
                self.refuse(id, &sender, &command, ENDED);
            }
        }
    }

    fn refuse(&self, id: u64, sender: &str, command: &Command, why: &str) {
        self.hub.emit(EventKind::Ack {
            id,
            sender: sender.to_owned(),
            command: command.word(),
            ok: false,
            message: why.to_owned(),
        });
    }
}

impl Inner {
    /// Gives the control back when nobody reads any more.
    fn send(&self, control: Control) -> Result<(), Control> {
        match &self.controls {
            Some(controls) => controls.send(control).map_err(|e| e.0),
            None => Err(control),
        }
    }
}
