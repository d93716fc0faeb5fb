//! What the images and captions are, and what is odd about them.

mod captions;
mod duplicates;
mod sizes;
mod strays;
mod tags;
mod views;

use std::collections::BTreeMap;

use super::{ImageDataset, ImageItem};
use crate::data::statistics::{histogram, percentile};
use crate::protocol::{
    BucketCount, DataStatistics, Finding, FindingItem, ImageStatistics, Severity,
};

pub(super) use tags::mentions;

/// Tags that statistics name.
const TAGS: usize = 100;

impl ImageDataset {
    /// Counts and findings, the worst first. `tokens` counts a caption's; without it lengths stay
    /// unknown.
    pub fn statistics(&self, tokens: Option<&(dyn Fn(&str) -> usize + Sync)>) -> DataStatistics {
        let trained: Vec<&ImageItem> = self.items.iter().filter(|i| !i.regularization).collect();
        let captions: Vec<String> = (0..self.items.len())
            .map(|i| self.plain_caption(i))
            .collect();
        let mut findings = Vec::new();
        findings.extend(self.unreadable());
        findings.extend(self.passed_over());
        findings.extend(captions::findings(self, &trained));
        let limit = self.settings.max_token_length;
        let lengths: Vec<u64> = match tokens {
            Some(count) => captions.iter().map(|c| count(c) as u64).collect(),
            None => Vec::new(),
        };
        findings.extend(captions::truncated(&self.items, &lengths, limit));
        findings.extend(sizes::findings(self, &trained));
        findings.extend(duplicates::findings(&trained));
        findings.extend(tags::findings(
            &trained,
            self.settings.trigger_word.as_deref(),
        ));
        findings.extend(strays::findings(&trained, self.clip.as_ref()));
        if let Some(seen) = &self.clip {
            findings.extend(views::findings(&trained, seen));
        }
        findings.sort_by_key(|f| std::cmp::Reverse(f.severity));

        let mut sorted = lengths.clone();
        sorted.sort_unstable();
        let kept = |length: &u64| (*length).min(limit as u64);
        let cut = lengths.iter().filter(|l| **l > limit as u64);
        let mut formats: BTreeMap<String, u64> = BTreeMap::new();
        for item in &trained {
            *formats.entry(item.source.rule()).or_default() += 1;
        }
        let held_out = self.held_out.len() as u64;
        DataStatistics {
            train_records: trained.len() as u64 - held_out,
            eval_records: held_out,
            formats: formats.clone(),
            files: trained.len() as u64,
            tokens: lengths.iter().map(kept).sum(),
            trained_tokens: lengths.iter().map(kept).sum(),
            min_length: sorted.first().copied().unwrap_or(0),
            median_length: percentile(&sorted, 0.5),
            p95_length: percentile(&sorted, 0.95),
            max_length: sorted.last().copied().unwrap_or(0),
            truncated: cut.clone().count() as u64,
            cut_tokens: cut.map(|l| l - limit as u64).sum(),
            packing: None,
            duplicates: duplicates::exact(&trained).len() as u64,
            skipped: match self.settings.skip_bad_records {
                true => self.bad.len() as u64,
                false => 0,
            },
            lengths: histogram(&sorted),
            held_out_files: Vec::new(),
            images: Some(Box::new(self.image_statistics(&trained, formats))),
            findings,
            warnings: Vec::new(),
        }
    }

    fn image_statistics(
        &self,
        trained: &[&ImageItem],
        captions: BTreeMap<String, u64>,
    ) -> ImageStatistics {
        let mut sizes: Vec<(u32, u32)> = trained.iter().map(|i| i.facts.size).collect();
        sizes.sort_by_key(|(w, h)| (u64::from(*w) * u64::from(*h), *w));
        let size = |at: usize| sizes.get(at).copied().unwrap_or_default();
        let mut buckets: BTreeMap<(u32, u32), BucketCount> = BTreeMap::new();
        for item in &self.items {
            let (width, height) = item.placement.bucket;
            let bucket = buckets.entry((width, height)).or_insert(BucketCount {
                width,
                height,
                ..BucketCount::default()
            });
            bucket.images += 1;
            bucket.rows += u64::from(item.repeats);
        }
        let mut buckets: Vec<BucketCount> = buckets.into_values().collect();
        let aspect = |b: &BucketCount| f64::from(b.width) / f64::from(b.height.max(1));
        buckets.sort_by(|a, b| aspect(a).total_cmp(&aspect(b)));
        let tags = tags::frequencies(trained);
        ImageStatistics {
            images: trained.len() as u64,
            regularization: (self.items.len() - trained.len()) as u64,
            rows: self.items.iter().map(|i| u64::from(i.repeats)).sum(),
            excluded: self.excluded.len() as u64,
            captions,
            resolution: u64::from(self.settings.resolution),
            smallest: size(0),
            median: size(sizes.len() / 2),
            largest: size(sizes.len().saturating_sub(1)),
            upscaled: trained.iter().filter(|i| sizes::enlarged(i) > 1.0).count() as u64,
            buckets,
            distinct_tags: tags.len() as u64,
            tags: tags.into_iter().take(TAGS).collect(),
        }
    }

    fn unreadable(&self) -> Option<Finding> {
        let items: Vec<FindingItem> = self
            .bad
            .iter()
            .map(|bad| match bad.line {
                0 => FindingItem::new(&*bad.file, &*bad.reason),
                line => FindingItem::new(format!("{}:{line}", bad.file), &*bad.reason),
            })
            .collect();
        let severity = match self.settings.skip_bad_records {
            true => Severity::Warning,
            false => Severity::Wrong,
        };
        found(
            "unreadable",
            severity,
            items,
            |n| format!("{} cannot be used", files_or_rows(n)),
            "mend or remove them, or leave them out with `skip_bad_records: true`",
        )
    }

    fn passed_over(&self) -> Vec<Finding> {
        let named = |names: &[String]| -> Vec<FindingItem> {
            names.iter().map(|n| FindingItem::new(n, "")).collect()
        };
        let excluded = self.excluded.iter().map(|i| FindingItem::new(&i.name, ""));
        let transparent = self.items.iter().filter(|i| i.facts.transparent);
        let transparent = transparent.map(|i| FindingItem::new(&i.name, "")).collect();
        [
            found(
                "other_formats",
                Severity::Warning,
                named(&self.left_over.unread),
                |n| format!("{} of formats that are not read", are_files(n)),
                "convert them to PNG or JPEG, or remove them",
            ),
            found(
                "other_files",
                Severity::Note,
                named(&self.left_over.others),
                |n| {
                    format!(
                        "{} neither images nor captions, and are passed over",
                        are_files(n)
                    )
                },
                "nothing, unless they were meant to be read",
            ),
            found(
                "excluded",
                Severity::Note,
                excluded.collect(),
                |n| format!("{} left out by hand", are_images(n)),
                "nothing; `x` in the deck's data pane takes one in again",
            ),
            found(
                "transparent",
                Severity::Note,
                transparent,
                |n| {
                    format!(
                        "{} transparent in part, and trained on over white",
                        are_images(n)
                    )
                },
                "put them on the background that you want",
            ),
            (self.unused_regularization > 0).then(|| Finding {
                kind: "unused_regularization".into(),
                severity: Severity::Note,
                message: format!(
                    "{} of `reg_data_dir` are not used: there are no more turns than of the \
                     training's images",
                    images(self.unused_regularization)
                ),
                remedy: "nothing, or raise the repeats of the training's folders".into(),
                count: self.unused_regularization as u64,
                items: Vec::new(),
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A finding about at least one item.
fn found(
    kind: &str,
    severity: Severity,
    items: Vec<FindingItem>,
    message: impl FnOnce(usize) -> String,
    remedy: &str,
) -> Option<Finding> {
    let count = items.len();
    (count > 0).then(|| Finding::new(kind, severity, message(count), remedy, items))
}

fn images(count: usize) -> String {
    match count {
        1 => "1 image".into(),
        n => format!("{n} images"),
    }
}

fn are_images(count: usize) -> String {
    match count {
        1 => "1 image is".into(),
        n => format!("{n} images are"),
    }
}

fn are_files(count: usize) -> String {
    match count {
        1 => "1 file is".into(),
        n => format!("{n} files are"),
    }
}

fn files_or_rows(count: usize) -> String {
    match count {
        1 => "1 file or row".into(),
        n => format!("{n} files or rows"),
    }
}

fn verb<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
