//! A curve of any length in bounded memory.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Num;

/// Buckets kept at most; when one more is needed, neighbours are merged pairwise.
const BUCKETS: usize = 1024;
/// Points kept at full resolution behind the buckets, so that a resume can cut exactly.
const TAIL: usize = 1024;

/// Finite points that share a range of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    pub first_step: u64,
    pub last_step: u64,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub count: u64,
}

impl Bucket {
    fn point(step: u64, value: f64) -> Self {
        Bucket {
            first_step: step,
            last_step: step,
            min: value,
            max: value,
            sum: value,
            count: 1,
        }
    }

    fn merge(&mut self, other: &Bucket) {
        self.last_step = other.last_step;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Values by step, bucketed: `stride` steps share a bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    stride: u64,
    buckets: Vec<Bucket>,
    /// The most recent points as they came, non-finite ones left out.
    tail: VecDeque<(u64, f64)>,
    last: Option<(u64, Num)>,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            stride: 1,
            buckets: Vec::new(),
            tail: VecDeque::new(),
            last: None,
        }
    }
}

impl Series {
    /// Adds a point. Steps must not decrease; non-finite values only become `last`.
    pub fn push(&mut self, step: u64, value: f64) {
        self.last = Some((step, Num(value)));
        if !value.is_finite() {
            return;
        }
        self.tail.push_back((step, value));
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
        self.insert(step, value);
        while self.buckets.len() > BUCKETS {
            self.stride *= 2;
            let old = std::mem::take(&mut self.buckets);
            for bucket in old {
                match self.buckets.last_mut() {
                    Some(last)
                        if last.first_step / self.stride == bucket.first_step / self.stride =>
                    {
                        last.merge(&bucket)
                    }
                    _ => self.buckets.push(bucket),
                }
            }
        }
    }

    fn insert(&mut self, step: u64, value: f64) {
        match self.buckets.last_mut() {
            Some(last) if last.first_step / self.stride == step / self.stride => {
                last.merge(&Bucket::point(step, value))
            }
            _ => self.buckets.push(Bucket::point(step, value)),
        }
    }

    /// Forgets every point after `step`.
    ///
    /// Exact while the cut lies within the tail; a cut further back keeps the mean of the bucket
    /// it falls into.
    pub fn truncate_after(&mut self, step: u64) {
        while self.tail.back().is_some_and(|&(s, _)| s > step) {
            self.tail.pop_back();
        }
        self.buckets.retain(|b| b.first_step <= step);
        if let Some(last) = self.buckets.last().cloned()
            && last.last_step > step
        {
            let kept: Vec<_> = self
                .tail
                .iter()
                .copied()
                .filter(|&(s, _)| s >= last.first_step)
                .collect();
            if kept.first().is_some_and(|&(s, _)| s == last.first_step) {
                self.buckets.pop();
                for (s, v) in kept {
                    self.insert(s, v);
                }
            } else if let Some(bucket) = self.buckets.last_mut() {
                bucket.last_step = step;
            }
        }
        if self.last.is_some_and(|(s, _)| s > step) {
            self.last = self.tail.back().map(|&(s, v)| (s, Num(v)));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The whole curve, oldest first.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The most recent points at full resolution, oldest first.
    pub fn tail(&self) -> impl DoubleEndedIterator<Item = (u64, f64)> + ExactSizeIterator + '_ {
        self.tail.iter().copied()
    }

    /// The last point, finite or not.
    pub fn last(&self) -> Option<(u64, f64)> {
        self.last.map(|(s, v)| (s, v.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_points_stay_bounded_and_keep_their_extremes() {
        let mut series = Series::default();
        for step in 1..=1_000_000u64 {
            series.push(step, if step == 777_777 { 50.0 } else { 1.0 });
        }
        assert!(series.buckets().len() <= BUCKETS);
        assert_eq!(
            series.buckets().iter().map(|b| b.count).sum::<u64>(),
            1_000_000
        );
        assert_eq!(
            series.buckets().iter().map(|b| b.max).fold(0.0, f64::max),
            50.0
        );
    }

    #[test]
    fn cutting_and_pushing_again_equals_never_having_gone_further() {
        let mut straight = Series::default();
        let mut resumed = Series::default();
        for step in 1..=3000u64 {
            straight.push(step, (step as f64).sin());
            resumed.push(step, (step as f64).sin());
        }
        for step in 3001..=3100 {
            resumed.push(step, 9.0);
        }
        resumed.truncate_after(3000);
        for step in 3001..=3200u64 {
            straight.push(step, (step as f64).sin());
            resumed.push(step, (step as f64).sin());
        }
        for (a, b) in straight.buckets().iter().zip(resumed.buckets()) {
            assert_eq!(
                (a.first_step, a.last_step, a.count),
                (b.first_step, b.last_step, b.count)
            );
            assert!((a.mean() - b.mean()).abs() < 1e-12);
        }
        assert_eq!(straight.last(), resumed.last());
    }

    #[test]
    fn non_finite_values_are_remembered_but_never_drawn() {
        let mut series = Series::default();
        series.push(1, 2.0);
        series.push(2, f64::NAN);
        assert_eq!(series.buckets().len(), 1);
        assert!(series.last().is_some_and(|(s, v)| s == 2 && v.is_nan()));
    }
}
