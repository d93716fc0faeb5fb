//! A run told in real events, for the deck's tests.

use std::collections::BTreeMap;

use loradeck::protocol::*;

pub mod deck;

/// When the run begins, by the runner's clock.
pub const START: f64 = 1_790_000_000.0;

/// Events in order, with `seq` and `time` kept.
pub struct Story {
    pub seq: u64,
    pub time: f64,
    pub total: u64,
}

impl Story {
    pub fn new(total: u64) -> Story {
        Story {
            seq: 0,
            time: START,
            total,
        }
    }

    pub fn event(&mut self, kind: EventKind) -> Event {
        self.seq += 1;
        Event {
            seq: self.seq,
            time: self.time,
            kind,
        }
    }

    pub fn phase(&mut self, phase: PhaseName, detail: &str) -> Event {
        self.event(EventKind::Phase {
            phase,
            detail: detail.into(),
            error: None,
        })
    }

    pub fn message(&mut self, level: Level, text: &str) -> Event {
        self.event(EventKind::Message(Message {
            level,
            text: text.into(),
        }))
    }

    pub fn started(&mut self) -> Event {
        let entry = |key: &str, value: &str, source: &str, applies: &str| ConfigEntry {
            key: key.into(),
            value: value.into(),
            source: source.into(),
            applies: applies.into(),
        };
        let config = vec![
            entry(
                "base_model",
                "./models/SmolLM2-135M-Instruct.Q4_1.gguf",
                "line 1",
                "restart",
            ),
            entry("task_type", "text-generation", "from the base", "restart"),
            entry("train_data_dir", "./data/clinic", "line 2", "restart"),
            entry("output_dir", "./output/clinic", "default", "restart"),
            entry("lora_rank", "8", "line 4", "restart"),
            entry("lora_alpha", "8.0", "default", "restart"),
            entry("lora_dropout", "0.0", "default", "restart"),
            entry(
                "target_modules",
                "[q_proj, k_proj, v_proj, o_proj]",
                "default",
                "restart",
            ),
            entry("epochs", "3.0", "line 5", "live"),
            entry("batch_size", "4", "line 6", "restart"),
            entry("gradient_accumulation_steps", "1", "default", "restart"),
            entry("learning_rate", "5e-4", "--set", "live"),
            entry("lr_scheduler", "cosine", "line 8", "live"),
            entry("warmup_steps", "20", "line 9", "live"),
            entry("weight_decay", "0.0", "default", "live"),
            entry("seed", "42", "default", "restart"),
            entry("sequence_len", "512", "line 10", "restart"),
            entry("eval_split", "0.1", "default", "restart"),
            entry("eval_steps", "100", "line 11", "live"),
            entry(
                "sample_prompts",
                "[\"I have a headache.\", \"What helps against a cough?\"]",
                "line 12",
                "live",
            ),
            entry("save_steps", "100", "default", "live"),
            entry("keep_checkpoints", "3", "default", "live"),
            entry("export_formats", "[peft]", "default", "checkpoint"),
        ];
        self.event(EventKind::Started {
            protocol: loradeck::protocol::VERSION,
            program: "0.1.0".into(),
            run: "clinic".into(),
            run_dir: "/home/ada/output/clinic".into(),
            pid: 4711,
            config,
            config_path: Some("/home/ada/configs/clinic.yaml".into()),
        })
    }

    /// Base, data and plan.
    pub fn loaded(&mut self) -> Vec<Event> {
        self.time += 2.0;
        let model = self.event(EventKind::Model {
            device: "CPU, 8 threads".into(),
            base: BaseInfo {
                name: "./models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
                architecture: "llama".into(),
                format: "gguf".into(),
                dtype: "Q4_1".into(),
                parameters: 134_515_008,
                layers: 30,
                hidden_size: 576,
                vocabulary: 49_152,
                bytes: 98 << 20,
            },
            adapter: AdapterInfo {
                rank: 8,
                alpha: 8.0,
                target_modules: ["q_proj", "k_proj", "v_proj", "o_proj"]
                    .map(String::from)
                    .to_vec(),
                modules: 120,
                parameters: 921_600,
            },
        });
        let lengths = [3u64, 14, 41, 66, 52, 31, 18, 9, 4, 2];
        let data = self.event(EventKind::Data {
            statistics: DataStatistics {
                train_records: 216,
                eval_records: 24,
                formats: BTreeMap::from([("messages".into(), 240)]),
                files: 2,
                tokens: 41_317,
                trained_tokens: 19_874,
                min_length: 41,
                median_length: 168,
                p95_length: 343,
                max_length: 498,
                truncated: 2,
                cut_tokens: 731,
                packing: None,
                held_out_files: Vec::new(),
                duplicates: 3,
                skipped: 0,
                lengths: (0u64..)
                    .zip(lengths)
                    .map(|(i, count)| LengthBucket {
                        from: i * 50,
                        to: (i + 1) * 50,
                        count,
                    })
                    .collect(),
                images: None,
                findings: Vec::new(),
                warnings: vec!["3 records are exact duplicates of earlier ones".into()],
            },
        });
        let plan = self.event(EventKind::Plan {
            total_steps: self.total,
            steps_per_epoch: 54,
        });
        vec![model, data, plan]
    }

    /// A wobble that looks like noise and is the same on every machine.
    pub fn noise(i: u64) -> f64 {
        let x = i
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x >> 40) as f64 / (1u64 << 24) as f64) * 2.0 - 1.0
    }

    pub fn step(&mut self, step: u64) -> Event {
        self.time += 0.25;
        let t = step as f64;
        let loss = 0.9 + 1.9 * (-t / 140.0).exp() + 0.12 * Self::noise(step);
        let warm = (t / 20.0).min(1.0);
        let rate = 5e-4 * warm * (0.5 + 0.5 * (std::f64::consts::PI * t / self.total as f64).cos());
        self.event(EventKind::Step(StepMetrics {
            step,
            epoch: t / 54.0,
            loss: Num(loss),
            learning_rate: rate,
            grad_norm: Num(0.4 + 1.6 * (-t / 90.0).exp() + 0.1 * Self::noise(step + 7)),
            tokens: 640 + step % 37,
            total_tokens: step * 658,
            images: 0,
            seconds: 0.24,
            peak_memory_bytes: 1_340 << 20,
        }))
    }

    pub fn eval(&mut self, step: u64) -> Event {
        self.event(EventKind::Eval {
            step,
            loss: Num(1.0 + 1.84 * (-(step as f64) / 130.0).exp()),
            base_loss: (step == 0).then_some(Num(2.84)),
            records: 24,
            seconds: 1.4,
        })
    }

    pub fn sample(&mut self, step: u64) -> Event {
        let adapter = match step {
            0 => "A headache can have many causes. You should drink water and",
            1..=150 => {
                "Thank you for asking. A headache can have many causes. Please rest, drink water, and call us if it lasts."
            }
            _ => {
                "Thank you for writing to the clinic. Rest in a dark room, drink two glasses of water, and come by tomorrow at nine if the pain is still there. Be well!"
            }
        };
        self.event(EventKind::Sample {
            step,
            samples: vec![
                SampleText {
                    prompt: "I have a headache. What should I do?".into(),
                    text: adapter.into(),
                    base_text: Some("A headache can have many causes. You should drink water and get some sleep. If you have a headache, you should go to the doctor, the doctor, the doctor.".into()),
                    ..SampleText::default()
                },
                SampleText {
                    prompt: "What helps against a cough?".into(),
                    text: "Thank you for writing to the clinic. Warm tea with honey helps. Be well!".into(),
                    base_text: Some("There are many things that help against a cough.".into()),
                    ..SampleText::default()
                },
            ],
            seconds: 0.8,
        })
    }

    pub fn checkpoint(&mut self, step: u64, reason: CheckpointReason) -> Event {
        self.event(EventKind::Checkpoint {
            step,
            path: format!("/home/ada/output/clinic/checkpoints/step-{step:06}"),
            bytes: 11_100_000,
            reason,
            seconds: 0.05,
        })
    }

    pub fn hardware(&mut self, gpu: GpuStatus, i: u64) -> Event {
        let wobble = Self::noise(i * 31);
        self.event(EventKind::Hardware {
            gpu,
            host: HostReading {
                cpu: 71.0 + 9.0 * wobble as f32,
                cores: 8,
                run_cpu: 512.0 + 60.0 * wobble as f32,
                memory_total: 32 << 30,
                memory_used: 9 << 30,
                memory_run: 1_290 << 20,
                disk_free: 212 << 30,
                disk_total: 480 << 30,
            },
        })
    }

    /// A run in the middle of training, with everything it has by then.
    pub fn up_to(&mut self, last: u64, gpu: &GpuStatus) -> Vec<Event> {
        let mut events = vec![
            self.started(),
            self.phase(PhaseName::Loading, "reading the base"),
        ];
        events.extend(self.loaded());
        events.push(self.phase(PhaseName::Evaluating, "bare base"));
        self.time += 1.4;
        events.push(self.eval(0));
        events.push(self.sample(0));
        events.push(self.phase(PhaseName::Training, ""));
        for step in 1..=last {
            events.push(self.step(step));
            if step % 8 == 0 {
                events.push(self.hardware(gpu.clone(), step / 8));
            }
            if step % 100 == 0 {
                events.push(self.eval(step));
                events.push(self.sample(step));
                events.push(self.checkpoint(step, CheckpointReason::Scheduled));
            }
        }
        events
    }

    pub fn ack(&mut self, id: u64, sender: &str, command: &str, ok: bool, message: &str) -> Event {
        self.event(EventKind::Ack {
            id,
            sender: sender.into(),
            command: command.into(),
            ok,
            message: message.into(),
        })
    }
}

pub fn no_gpu() -> GpuStatus {
    GpuStatus::NoNvml {
        reason: "libnvidia-ml.so.1 cannot be opened: no NVIDIA driver here".into(),
    }
}

pub fn gpus(n: u32) -> GpuStatus {
    GpuStatus::Present {
        gpus: (0..n)
            .map(|index| GpuReading {
                index,
                name: "NVIDIA GeForce RTX 4090".into(),
                uuid: format!("GPU-{index}"),
                memory_total: 24 << 30,
                memory_used: if index == 0 { 17 << 30 } else { 3 << 30 },
                memory_run: Some(if index == 0 { 14 << 30 } else { 0 }),
                utilization: Some(if index == 0 { 97 } else { 4 }),
                temperature: Some(if index == 0 { 82 } else { 41 }),
                power: Some(if index == 0 { 411.0 } else { 28.0 }),
                power_limit: Some(450.0),
                clock: Some(2520),
                memory_clock: Some(10_501),
                throttling: if index == 0 {
                    vec!["power cap".into()]
                } else {
                    vec![]
                },
                in_use: index == 0,
            })
            .collect(),
    }
}

/// Records as the runner sends them.
pub fn records(from: usize, count: usize, total: usize) -> Vec<RecordPreview> {
    (from..(from + count).min(total))
        .map(|index| RecordPreview {
            index,
            origin: format!("train.jsonl:{}", index + 1),
            format: "messages".into(),
            tokens: 61,
            trained_tokens: 34,
            truncated: false,
            split: if index % 10 == 9 { "eval" } else { "train" }.into(),
            segments: vec![
                RecordSegment {
                    text: "<|im_start|>system\nYou answer for the clinic.<|im_end|>\n<|im_start|>user\nI have had a sore throat for three days.<|im_end|>\n<|im_start|>assistant\n".into(),
                    trained: false,
                },
                RecordSegment {
                    text: "Thank you for writing to the clinic. Gargle with warm salt water, rest your voice, and come by if you get a fever. Be well!<|im_end|>".into(),
                    trained: true,
                },
            ],
            image: None,
        })
        .collect()
}
