//! Images as a person looks through them.

use super::{ImageDataset, ImageItem, with_trigger};
use crate::protocol::{ImagePreview, RecordPreview, RecordSegment};

impl ImageDataset {
    /// Every image that a person may look at: those trained on, those left out by hand, and those
    /// of `reg_data_dir`, with whether it is left out.
    pub fn shown(&self) -> Vec<(&ImageItem, bool)> {
        let items = self.items.iter().map(|item| (item, false));
        let excluded = self.excluded.iter().map(|item| (item, true));
        let mut shown: Vec<_> = items.chain(excluded).collect();
        shown.sort_by(|(a, _), (b, _)| {
            (a.regularization, &a.name).cmp(&(b.regularization, &b.name))
        });
        shown
    }

    /// Images `from..from + count` of [`ImageDataset::shown`]. `tokens` counts a caption's.
    pub fn preview(
        &self,
        tokens: Option<&dyn Fn(&str) -> usize>,
        from: usize,
        count: usize,
    ) -> Vec<RecordPreview> {
        let held_out = |item: &ImageItem| {
            self.held_out
                .iter()
                .any(|&i| self.items[i].name == item.name)
        };
        self.shown()
            .into_iter()
            .enumerate()
            .skip(from)
            .take(count)
            .map(|(index, (item, excluded))| {
                let caption = match &self.settings.trigger_word {
                    Some(trigger) if !item.regularization => with_trigger(trigger, &item.caption),
                    _ => item.caption.clone(),
                };
                let tokens = tokens.map_or(0, |count| count(&caption));
                let split = match (excluded, item.regularization) {
                    (true, _) => "excluded",
                    (_, true) => "regularization",
                    _ if held_out(item) => "eval",
                    _ => "train",
                };
                RecordPreview {
                    index,
                    origin: item.name.clone(),
                    format: item.source.rule(),
                    tokens: tokens as u64,
                    trained_tokens: tokens.min(self.settings.max_token_length) as u64,
                    truncated: tokens > self.settings.max_token_length,
                    split: split.into(),
                    segments: vec![RecordSegment {
                        text: caption,
                        trained: true,
                    }],
                    image: Some(ImagePreview {
                        width: item.facts.size.0,
                        height: item.facts.size.1,
                        bucket: item.placement.bucket,
                        repeats: item.repeats,
                        caption_source: item.source.place(),
                        caption: item.caption.clone(),
                        excluded,
                    }),
                }
            })
            .collect()
    }
}
