//! What a forward pass leaves behind for its backward.
//!
//! candle's own graph costs a tensor of zeros and an addition for every edge, and keeps every
//! operation's inputs and output alive whether its backward reads them or not. Here each operation
//! notes what it needs and nothing else, and gradients are added in place.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use candle_core::{
    CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, TensorId, Var, bail,
};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tensors::floats;

/// The operations of one forward pass that gradients must pass through, in order.
pub struct Tape(Option<RefCell<Recording>>);

#[derive(Default)]
struct Recording {
    /// Tensors whose gradient is wanted, and everything computed from them.
    wanted: HashSet<TensorId>,
    steps: Vec<(TensorId, Backward)>,
}

/// From an operation's gradient to those of its inputs.
type Backward = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()>>;

impl Tape {
    /// For passes without a backward: nothing is noted, nothing is kept.
    pub fn off() -> Self {
        Tape(None)
    }

    pub fn recording() -> Self {
        Tape(Some(RefCell::default()))
    }

    /// Asks for the gradient of `x`; must come before the operations that use it.
    pub fn want(&self, x: &Tensor) {
        if let Some(recording) = &self.0 {
            recording.borrow_mut().wanted.insert(x.id());
        }
    }

    /// Whether a gradient must reach `x`.
    pub fn wants(&self, x: &Tensor) -> bool {
        let wanted = |recording: &RefCell<Recording>| recording.borrow().wanted.contains(&x.id());
        self.0.as_ref().is_some_and(wanted)
    }

    /// Notes how `output` was made, if gradients must reach any of its `inputs`.
    pub(super) fn record(
        &self,
        output: &Tensor,
        inputs: &[&Tensor],
        backward: impl FnOnce(Tensor, &mut Gradients) -> Result<()> + 'static,
    ) {
        if let Some(recording) = &self.0
            && inputs.iter().any(|input| self.wants(input))
        {
            let mut recording = recording.borrow_mut();
            recording.wanted.insert(output.id());
            recording.steps.push((output.id(), Box::new(backward)));
        }
    }

    /// `a + b`.
    pub(super) fn sum(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let sum = (a.detach() + b.detach())?;
        let ids = [a.id(), b.id()];
        self.record(&sum, &[a, b], move |gradient, gradients| {
            for id in ids {
                gradients.add_shared(id, gradient.clone())?;
            }
            Ok(())
        });
        Ok(sum)
    }

    /// The gradients of everything wanted, given that of the pass's result.
    ///
    /// # Errors
    /// The device fails.
    pub fn pull(self, result: &Tensor, gradient: Tensor) -> Result<Gradients> {
        self.pull_all([(result, gradient)])
    }

    /// As [`Tape::pull`], of a pass with several results.
    ///
    /// # Errors
    /// The device fails.
    pub fn pull_all<'a>(
        self,
        results: impl IntoIterator<Item = (&'a Tensor, Tensor)>,
    ) -> Result<Gradients> {
        let recording = self.0.map(RefCell::into_inner).unwrap_or_default();
        let mut gradients = Gradients {
            wanted: recording.wanted,
            found: HashMap::new(),
        };
        for (result, gradient) in results {
            gradients.add_shared(result.id(), gradient)?;
        }
        for (output, backward) in recording.steps.into_iter().rev() {
            // What nothing was computed from got no gradient.
            if let Some(gradient) = gradients.found.remove(&output) {
                backward(gradient.tensor, &mut gradients)?;
            }
        }
        Ok(gradients)
    }

    /// An operation out of candle's own: where there is no fused one for the device.
    pub(super) fn composed<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        operation: impl FnOnce([Tensor; N]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let wanted = inputs.map(|input| self.wants(input));
        let mut leaves = Vec::new();
        for (input, wanted) in inputs.iter().zip(wanted) {
            leaves.push(match wanted {
                true => Var::from_tensor(&input.detach())?.into_inner(),
                false => input.detach(),
            });
        }
        let Ok(arguments) = <[Tensor; N]>::try_from(leaves.clone()) else {
            bail!("an operation lost one of its inputs");
        };
        let graph = operation(arguments)?;
        let output = graph.detach();
        let ids = inputs.map(Tensor::id);
        self.record(&output, &inputs, move |gradient, gradients| {
            let mut store = (graph * gradient)?.sum_all()?.backward()?;
            for ((leaf, id), wanted) in leaves.iter().zip(ids).zip(wanted) {
                if wanted && let Some(gradient) = store.remove(leaf) {
                    gradients.add(id, gradient)?;
                }
            }
            Ok(())
        });
        Ok(output)
    }
}

/// Gradients by tensor: of those that are wanted, and of no others.
pub struct Gradients {
    wanted: HashSet<TensorId>,
    found: HashMap<TensorId, Gradient>,
}

struct Gradient {
    tensor: Tensor,
    /// Others refer to the same numbers.
    shared: bool,
}

impl Gradients {
    #[cfg(test)]
    pub fn wanting(tensors: &[&Tensor]) -> Self {
        Gradients {
            wanted: tensors.iter().map(|tensor| tensor.id()).collect(),
            found: HashMap::new(),
        }
    }

    /// The gradient of `x`, once.
    pub fn take(&mut self, x: &Tensor) -> Option<Tensor> {
        self.found.remove(&x.id()).map(|gradient| gradient.tensor)
    }

    /// The tensors that have a gradient which nobody took yet.
    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.found.len()
    }

    /// Adds to the gradient of `of` numbers that nobody else refers to.
    pub(super) fn add(&mut self, of: TensorId, gradient: Tensor) -> Result<()> {
        self.insert(of, gradient, false)
    }

    /// Adds to the gradient of `of` numbers that others refer to as well.
    pub(super) fn add_shared(&mut self, of: TensorId, gradient: Tensor) -> Result<()> {
        self.insert(of, gradient, true)
    }

    fn insert(&mut self, of: TensorId, tensor: Tensor, shared: bool) -> Result<()> {
        if !self.wanted.contains(&of) {
            return Ok(());
        }
        match self.found.entry(of) {
            Entry::Vacant(entry) => {
                entry.insert(Gradient { tensor, shared });
            }
            Entry::Occupied(mut entry) => {
                let held = entry.get_mut();
                if held.shared && !shared {
                    held.tensor = sum_in_place(tensor, &held.tensor)?;
                    held.shared = false;
                } else if held.shared {
                    held.tensor = (&held.tensor + &tensor)?;
                    held.shared = false;
                } else {
                    held.tensor = sum_in_place(held.tensor.clone(), &tensor)?;
                }
            }
        }
        Ok(())
    }
}

/// `sum + addend`, in the memory of `sum` where the device allows it.
fn sum_in_place(sum: Tensor, addend: &Tensor) -> Result<Tensor> {
    let plain = |x: &Tensor| {
        matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32 && x.is_contiguous()
    };
    if cuda::serves(&sum) && sum.dtype() == addend.dtype() && sum.shape() == addend.shape() {
        let (sum, addend) = (sum.contiguous()?, addend.contiguous()?);
        cuda::pointwise::add_assign(&sum, &addend)?;
        return Ok(sum);
    }
    if plain(&sum) && plain(addend) && sum.shape() == addend.shape() {
        let _time = timed(Part::Sums);
        sum.inplace_op2(addend, &AddAssign)?;
        return Ok(sum);
    }
    sum + addend
}

struct AddAssign;

/// Numbers per task: enough to be worth a thread.
const CHUNK: usize = 16 * 1024;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add-assign"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        addend: &CpuStorage,
        addend_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(sum), Some((start, end))) = (sum, sum_layout.contiguous_offsets())
        else {
            bail!("a sum in place got numbers that are not f32, or not contiguous");
        };
        let addend = floats(addend, addend_layout)?;
        sum[start..end]
            .par_chunks_mut(CHUNK)
            .zip(addend.par_chunks(CHUNK))
            .for_each(|(sum, addend)| {
                for (sum, addend) in sum.iter_mut().zip(addend) {
                    *sum += addend;
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::{rms_norm, swiglu, to_vec};
    use super::*;

    #[test]
    fn gradients_of_a_tensor_used_several_times_add_up() {
        let weight = numbers(1, &[6]);
        let inputs = [numbers(2, &[3, 6]), numbers(3, &[3, 6])];
        check("several uses", &inputs, |tape, t| {
            let normed = rms_norm(tape, &t[0], &weight, 1e-5)?;
            let gated = swiglu(tape, &normed, &t[1])?;
            let again = swiglu(tape, &gated, &normed)?;
            swiglu(tape, &again, &t[0])
        });
    }

    #[test]
    fn composed_operations_pass_gradients_on() {
        let inputs = [numbers(2, &[3, 6]), numbers(3, &[3, 6])];
        check("composed", &inputs, |tape, t| {
            let product = tape.composed([&t[0], &t[1]], |[a, b]| a * b)?;
            swiglu(tape, &product, &t[0])
        });
    }

    #[test]
    fn gradients_of_two_results_add_up() {
        let tape = Tape::recording();
        let (x, y) = (numbers(1, &[2, 4]), numbers(2, &[2, 4]));
        tape.want(&x);
        let results = [
            swiglu(&tape, &x, &y).unwrap(),
            swiglu(&tape, &y, &x).unwrap(),
        ];
        let one = results[0].ones_like().unwrap();
        let both = results.iter().map(|result| (result, one.clone()));
        let found = tape.pull_all(both).unwrap().take(&x).unwrap();
        check("sum", std::slice::from_ref(&x), |tape, t| {
            let (first, second) = (swiglu(tape, &t[0], &y)?, swiglu(tape, &y, &t[0])?);
            tape.sum(&first, &second)
        });
        let tape = Tape::recording();
        tape.want(&x);
        let (first, second) = (swiglu(&tape, &x, &y), swiglu(&tape, &y, &x));
        let sum = tape.sum(&first.unwrap(), &second.unwrap()).unwrap();
        let expected = tape.pull(&sum, one).unwrap().take(&x).unwrap();
        assert_eq!(to_vec(&found).unwrap(), to_vec(&expected).unwrap());
    }

    #[test]
    fn nothing_is_recorded_that_no_gradient_passes() {
        let tape = Tape::recording();
        let (x, y) = (numbers(1, &[2, 4]), numbers(2, &[2, 4]));
        tape.want(&y);
        let frozen = swiglu(&tape, &x, &x).unwrap();
        assert!(!tape.wants(&frozen));
        let result = swiglu(&tape, &frozen, &y).unwrap();
        let mut gradients = tape.pull(&result, result.ones_like().unwrap()).unwrap();
        assert!(gradients.take(&frozen).is_none() && gradients.take(&x).is_none());
        assert!(gradients.take(&y).is_some());
        assert!(!Tape::off().wants(&y));
    }

    #[test]
    fn a_shared_gradient_is_never_written_to() {
        let (x, y, shared) = (numbers(1, &[2]), numbers(2, &[2]), numbers(3, &[2]));
        let mut gradients = Gradients::wanting(&[&x, &y]);
        let before = to_vec(&shared).unwrap();
        gradients.add_shared(x.id(), shared.clone()).unwrap();
        gradients.add_shared(y.id(), shared.clone()).unwrap();
        gradients.add(x.id(), numbers(4, &[2])).unwrap();
        gradients.add_shared(y.id(), numbers(5, &[2])).unwrap();
        gradients.add(y.id(), numbers(5, &[2])).unwrap();
        assert_eq!(to_vec(&shared).unwrap(), before);
        let sum = to_vec(&gradients.take(&x).unwrap()).unwrap();
        let other = to_vec(&numbers(4, &[2])).unwrap();
        assert_eq!(sum, [before[0] + other[0], before[1] + other[1]]);
    }
}
