//! Records that say the same, word for word or nearly.
//!
//! Near duplicates are found as Broder does ("On the resemblance and containment of documents",
//! 1997): the share of shingles, here three words in a row, that two records have in common
//! (Jaccard). It is estimated from minhashes, and the pairs worth estimating are those that agree
//! in a whole band of them (Indyk and Motwani, 1998), so that a million records take no million
//! squared comparisons.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use rayon::prelude::*;

/// Two records whose likeness is at least this are near duplicates.
pub(super) const ALIKE: f32 = 0.7;

/// Words of a shingle.
const WORDS: usize = 3;

/// A pair with a likeness of [`ALIKE`] agrees in at least one of this many bands of [`ROWS`]
/// minhashes with a probability of 0.99, a pair of 0.4 with one of 0.22.
const BANDS: usize = 24;
const ROWS: usize = 5;
const HASHES: usize = BANDS * ROWS;

/// Records with fewer shingles are too short to be called alike; only equal words count.
const FEWEST: usize = 8;

/// Records that are looked at for what is common to many.
const SAMPLE: usize = 4096;

/// What stands in more than this share of the records, and in more than [`COMMON_RECORDS`], is the
/// data's form (an instruction that all have, a greeting), and no sign of a duplicate.
const COMMON_SHARE: f64 = 0.01;
const COMMON_RECORDS: usize = 10;

/// What a record says, by words.
#[derive(Default)]
pub(super) struct Words {
    /// Of everything, byte for byte.
    exact: blake3::Hasher,
    hashes: Vec<u64>,
}

impl Words {
    /// Adds a part of the record (a message, a field) that counts as content.
    pub fn add(&mut self, text: &str) {
        self.exact_only(text);
        let start = self.hashes.len();
        let mut word = FNV;
        let mut inside = false;
        for c in text.chars() {
            if c.is_alphanumeric() && !stands_alone(c) {
                for lower in c.to_lowercase() {
                    word = (word ^ u64::from(u32::from(lower))).wrapping_mul(FNV_PRIME);
                }
                inside = true;
                continue;
            }
            if std::mem::take(&mut inside) {
                self.hashes.push(std::mem::replace(&mut word, FNV));
            }
            if stands_alone(c) || is_sign(c) {
                self.hashes.push(mixed(u64::from(u32::from(c))));
            }
        }
        if inside {
            self.hashes.push(word);
        }
        // Where one part ends matters: a question is no answer.
        if self.hashes.len() > start {
            self.hashes.push(0);
        }
    }

    /// Adds a part that tells records apart but makes none alike: a system message.
    pub fn exact_only(&mut self, text: &str) {
        self.exact.update(&(text.len() as u64).to_le_bytes());
        self.exact.update(text.as_bytes());
    }

    /// Adds tokens: pieces of documents are cut where no word ends.
    pub fn add_tokens(&mut self, ids: &[u32]) {
        for id in ids {
            self.exact.update(&id.to_le_bytes());
            self.hashes.push(mixed(u64::from(*id) + 1));
        }
    }

    /// The distinct shingles, sorted.
    fn shingles(&self) -> Vec<u32> {
        let shingle = |words: &[u64]| {
            let joined = words.iter().fold(FNV, |all, word| mixed(all ^ word));
            (joined >> 32) as u32
        };
        let mut all: Vec<u32> = self.hashes.windows(WORDS).map(shingle).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn same_words(&self) -> u64 {
        if self.hashes.is_empty() {
            return u64::from_le_bytes(std::array::from_fn(|i| {
                self.exact.finalize().as_bytes()[i]
            }));
        }
        self.hashes.iter().fold(FNV, |all, word| mixed(all ^ word))
    }
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The finaliser of splitmix64 (Steele et al., 2014).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What is said, not how: 3 + 4 is not 3 * 4.
fn is_sign(c: char) -> bool {
    "+-*/=<>%$#&@^|~\\{}_".contains(c) || (!c.is_ascii() && unicode_symbol(c))
}

/// Currency signs, mathematics, arrows, emoji.
fn unicode_symbol(c: char) -> bool {
    matches!(u32::from(c), 0x20a0..=0x20cf | 0x2190..=0x23ff | 0x25a0..=0x27bf | 0x2900..=0x2bff
        | 0x1_f000..=0x1_faff)
}

/// Letters of scripts that write no spaces between words: each counts as one.
fn stands_alone(c: char) -> bool {
    matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

/// Shingles that many records share.
#[derive(Default)]
pub(super) struct Common(HashSet<u32>);

impl Common {
    /// Of a sample that `words` reads: records by their index, `None` where one cannot be read.
    pub fn of(records: usize, words: impl Fn(usize) -> Option<Words> + Sync) -> Self {
        let step = records.div_ceil(SAMPLE).max(1);
        let sample: Vec<usize> = (0..records).step_by(step).collect();
        let read: Vec<(u64, Vec<u32>)> = sample
            .par_iter()
            .filter_map(|&at| words(at).map(|words| (words.same_words(), words.shingles())))
            .collect();
        // A record that is there many times is a duplicate, not a form.
        let mut seen = HashSet::new();
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for (same, shingles) in &read {
            if seen.insert(*same) {
                for shingle in shingles {
                    *counts.entry(*shingle).or_default() += 1;
                }
            }
        }
        let most = COMMON_RECORDS.max((COMMON_SHARE * seen.len() as f64) as usize);
        let common = counts.into_iter().filter(|(_, count)| *count > most);
        Common(common.map(|(shingle, _)| shingle).collect())
    }

    /// A hash of the whole.
    pub fn digest(&self) -> blake3::Hash {
        let mut all: Vec<u32> = self.0.iter().copied().collect();
        all.sort_unstable();
        let bytes: Vec<u8> = all.iter().flat_map(|s| s.to_le_bytes()).collect();
        blake3::hash(&bytes)
    }
}

/// What is kept of a record to find its like.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fingerprint {
    pub exact: [u8; 16],
    pub words: u64,
    /// Whether it has shingles enough for what follows.
    pub comparable: bool,
    pub bands: [u32; BANDS],
    /// Eight bits of each minhash.
    pub sketch: [u8; HASHES],
}

/// Multiplier and addend of each hash function.
static FUNCTIONS: LazyLock<([u32; HASHES], [u32; HASHES])> = LazyLock::new(|| {
    let draw = |at: usize| (mixed(at as u64) >> 32) as u32;
    (
        std::array::from_fn(|i| draw(2 * i) | 1),
        std::array::from_fn(|i| draw(2 * i + 1)),
    )
});

impl Fingerprint {
    pub const BYTES: usize = 16 + 8 + 1 + 4 * BANDS + HASHES;

    pub fn of(words: &Words, common: &Common) -> Self {
        let mut exact = [0; 16];
        exact.copy_from_slice(&words.exact.finalize().as_bytes()[..16]);
        let mut shingles = words.shingles();
        shingles.retain(|shingle| !common.0.contains(shingle));
        let minima = minhashes(&shingles);
        let band = |at: usize| {
            let rows = &minima[at * ROWS..(at + 1) * ROWS];
            let joined = rows
                .iter()
                .fold(FNV, |all, row| mixed(all ^ u64::from(*row)));
            (joined >> 32) as u32
        };
        Fingerprint {
            exact,
            words: words.same_words(),
            comparable: shingles.len() >= FEWEST,
            bands: std::array::from_fn(band),
            // The low bits of a minimum are as good as random; the high ones are mostly zero.
            sketch: std::array::from_fn(|i| (minima[i].wrapping_mul(0x9e37_79b1) >> 24) as u8),
        }
    }

    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(self.exact);
        bytes.extend(self.words.to_le_bytes());
        bytes.push(u8::from(self.comparable));
        bytes.extend(self.bands.iter().flat_map(|band| band.to_le_bytes()));
        bytes.extend(self.sketch);
        std::array::from_fn(|i| bytes[i])
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        Fingerprint {
            exact: std::array::from_fn(|i| bytes[i]),
            words: u64::from_le_bytes(std::array::from_fn(|i| bytes[16 + i])),
            comparable: bytes[24] != 0,
            bands: std::array::from_fn(|i| u32::from_le_bytes(number(25 + 4 * i))),
            sketch: std::array::from_fn(|i| bytes[25 + 4 * BANDS + i]),
        }
    }

    /// The estimated share of common shingles, with a standard error of at most 0.05.
    fn likeness(&self, other: &Self) -> f32 {
        let pairs = self.sketch.iter().zip(&other.sketch);
        let equal = pairs.filter(|(a, b)| a == b).count() as f32 / HASHES as f32;
        // Eight bits agree by chance now and then.
        let chance = 1.0 / 256.0;
        ((equal - chance) / (1.0 - chance)).max(0.0)
    }
}

fn minhashes(shingles: &[u32]) -> [u32; HASHES] {
    let (multipliers, addends) = &*FUNCTIONS;
    let mut minima = [u32::MAX; HASHES];
    for shingle in shingles {
        for i in 0..HASHES {
            let hash = shingle
                .wrapping_mul(multipliers[i])
                .wrapping_add(addends[i]);
            minima[i] = minima[i].min(hash);
        }
    }
    minima
}

/// Another record that says the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Like {
    /// Index of the other.
    pub other: u32,
    /// Byte for byte.
    pub exact: bool,
    /// From [`ALIKE`] to 1; 1: the same words.
    pub likeness: f32,
}

/// For each record, what it repeats.
pub(super) struct Repeats {
    /// An earlier record of its own split.
    pub within: Vec<Option<Like>>,
    /// For held-out records: a training record.
    pub leaks: Vec<Option<Like>>,
}

/// Finds what records repeat: the first `train` of them are trained on, the others held out.
pub(super) fn repeats(prints: &[Fingerprint], train: usize) -> Repeats {
    let mut found = Repeats {
        within: vec![None; prints.len()],
        leaks: vec![None; prints.len()],
    };
    found.equal(prints, train, true, |print| {
        u128::from_le_bytes(print.exact)
    });
    found.equal(prints, train, false, |print| u128::from(print.words));
    for band in 0..BANDS {
        found.alike(prints, train, band);
    }
    found
}

impl Repeats {
    /// Records with the same key as an earlier one.
    fn equal(
        &mut self,
        prints: &[Fingerprint],
        train: usize,
        exact: bool,
        key: impl Fn(&Fingerprint) -> u128,
    ) {
        let like = |other: u32| {
            Some(Like {
                other,
                exact,
                likeness: 1.0,
            })
        };
        let (mut trained, mut held_out) = (HashMap::new(), HashMap::new());
        for (at, print) in prints.iter().enumerate() {
            let key = key(print);
            if at >= train && self.leaks[at].is_none() {
                self.leaks[at] = trained.get(&key).copied().and_then(like);
            }
            let first = if at < train {
                &mut trained
            } else {
                &mut held_out
            };
            match first.entry(key) {
                Entry::Vacant(empty) => drop(empty.insert(at as u32)),
                Entry::Occupied(other) if self.within[at].is_none() => {
                    self.within[at] = like(*other.get());
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    /// Records that share a band with others and are alike. Of many that share it, each is compared
    /// with the first and with the one before it: enough to find that it has a like.
    fn alike(&mut self, prints: &[Fingerprint], train: usize, band: usize) {
        let mut by_key: Vec<(u32, u32)> = prints
            .iter()
            .enumerate()
            .filter(|(at, print)| print.comparable && !(*at < train && self.within[*at].is_some()))
            .map(|(at, print)| (print.bands[band], at as u32))
            .collect();
        by_key.par_sort_unstable();
        for bucket in by_key.chunk_by(|a, b| a.0 == b.0).filter(|b| b.len() > 1) {
            let trained = bucket.partition_point(|(_, at)| (*at as usize) < train);
            for (place, &(_, at)) in bucket.iter().enumerate() {
                let first = if place < trained { 0 } else { trained };
                let own = [first, place.saturating_sub(1)];
                for other in own.into_iter().filter(|o| (first..place).contains(o)) {
                    compare(&mut self.within[at as usize], prints, at, bucket[other].1);
                }
                if place >= trained && trained > 0 {
                    for other in [0, trained - 1] {
                        compare(&mut self.leaks[at as usize], prints, at, bucket[other].1);
                    }
                }
            }
        }
    }
}

fn compare(best: &mut Option<Like>, prints: &[Fingerprint], at: u32, other: u32) {
    if best.is_some_and(|like| like.likeness >= 1.0) {
        return;
    }
    let likeness = prints[at as usize].likeness(&prints[other as usize]);
    if likeness >= ALIKE && best.is_none_or(|like| like.likeness < likeness) {
        // Equal words were found before; what is left differs.
        *best = Some(Like {
            other,
            exact: false,
            likeness: likeness.min(0.99),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Words {
        let mut words = Words::default();
        words.add(text);
        words
    }

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of(&words(text), &Common::default())
    }

    /// `count` words of a vocabulary of its own.
    fn text(seed: u64, count: u64) -> Vec<String> {
        (0..count)
            .map(|i| format!("w{}", mixed(seed << 20 | i) % 5000))
            .collect()
    }

    #[test]
    fn likeness_is_the_share_of_common_shingles() {
        let (mut worst, mut sum) = (0f32, 0f32);
        for seed in 0..200 {
            let mut other = text(seed, 80);
            for i in 0..(seed as usize % 12) {
                other[(i * 13 + 5) % 80] = format!("x{i}");
            }
            let (a, b) = (text(seed, 80).join(" "), other.join(" "));
            let (x, y): (HashSet<u32>, HashSet<u32>) = (
                words(&a).shingles().into_iter().collect(),
                words(&b).shingles().into_iter().collect(),
            );
            let exact = x.intersection(&y).count() as f32 / x.union(&y).count() as f32;
            let off = print(&a).likeness(&print(&b)) - exact;
            worst = worst.max(off.abs());
            sum += off;
        }
        // Four standard errors of 120 draws, and no bias.
        assert!(worst < 0.19, "{worst}");
        assert!((sum / 200.0).abs() < 0.015, "{}", sum / 200.0);
    }

    #[test]
    fn duplicates_and_leaks_are_found_in_any_order_and_strangers_are_not() {
        let mut texts: Vec<String> = (0..400).map(|seed| text(seed, 60).join(" ")).collect();
        texts[50] = texts[7].clone();
        texts[70] = texts[9].to_uppercase().replace(' ', ", ");
        let mut changed = text(11, 60);
        changed[30] = "another".into();
        texts[80] = changed.join(" ");
        texts[390] = texts[3].clone();
        let mut changed = text(12, 60);
        changed[20] = "another".into();
        texts[395] = changed.join(" ");
        let prints: Vec<Fingerprint> = texts.iter().map(|t| print(t)).collect();
        let found = repeats(&prints, 350);
        let within: Vec<(usize, u32, bool)> = (0..400)
            .filter_map(|at| found.within[at].map(|like| (at, like.other, like.exact)))
            .collect();
        assert_eq!(within, [(50, 7, true), (70, 9, false), (80, 11, false)]);
        let leaks: Vec<(usize, u32, bool)> = (0..400)
            .filter_map(|at| found.leaks[at].map(|like| (at, like.other, like.exact)))
            .collect();
        assert_eq!(leaks, [(390, 3, true), (395, 12, false)]);
    }

    #[test]
    fn what_all_records_share_makes_none_alike() {
        let form = text(1, 100).join(" ");
        let texts: Vec<String> = (2..40)
            .map(|s| format!("{form} {}", text(s, 12).join(" ")))
            .collect();
        let common = Common::of(texts.len(), |at| Some(words(&texts[at])));
        let of = |common: &Common| -> Vec<Fingerprint> {
            texts
                .iter()
                .map(|t| Fingerprint::of(&words(t), common))
                .collect()
        };
        let count = |found: Repeats| found.within.iter().flatten().count();
        assert_eq!(count(repeats(&of(&common), texts.len())), 0);
        assert!(count(repeats(&of(&Common::default()), texts.len())) > 30);
    }

    #[test]
    fn scripts_without_spaces_have_words_too() {
        let a = "头痛已经三天了，吃了药也不见好，晚上睡不着觉，该怎么办呢";
        let b = "头痛已经三天了，吃了药还不见好，晚上睡不着觉，该怎么办呢";
        let found = repeats(
            &[
                print(a),
                print(b),
                print("我的孩子发烧了，应该给他喝什么水，要不要去医院看看"),
            ],
            3,
        );
        assert_eq!(found.within[1].map(|like| like.other), Some(0));
        assert_eq!(found.within[2], None);
    }

    #[test]
    fn a_fingerprint_survives_its_bytes() {
        let one = print(&text(5, 40).join(" "));
        assert_eq!(Fingerprint::from_bytes(&one.to_bytes()), one);
    }
}
