//! Which gradients a pass gives, and that nothing else does.

use super::super::lora::{LoraPair, LoraSpec, match_targets};
use super::*;
use crate::ops::{emulated, to_vec};
use crate::random::{Purpose, Stream};

fn decoder() -> Decoder {
    let source = Source::open("builtin:tiny-llama").unwrap();
    Decoder::new(&source, &Device::Cpu, DType::F32).unwrap()
}

/// An adapter whose B is not zero, so that every number matters.
fn adapter(decoder: &Decoder, layers: Option<(usize, usize)>) -> LoraSet {
    let modules = match_targets(decoder.config(), true, &[], layers).unwrap();
    let spec = LoraSpec {
        alpha: 8.0,
        ..LoraSpec::lora(4)
    };
    let set = LoraSet::new(&modules, spec, 1, &Device::Cpu).unwrap();
    for (i, pair) in set.pairs.iter().enumerate() {
        let mut stream = Stream::new(2, Purpose::Init, 0, i as u32);
        let b: Vec<f32> = (0..pair.b.elem_count())
            .map(|_| 0.1 * stream.uniform() - 0.05)
            .collect();
        let b = Tensor::from_vec(b, pair.b.shape(), &Device::Cpu).unwrap();
        pair.b.set(&b).unwrap();
    }
    set
}

/// The same with DoRA, its magnitudes moved.
fn dora(decoder: &Decoder) -> LoraSet {
    let mut set = adapter(decoder, None);
    set.spec.use_dora = true;
    decoder.add_magnitudes(&mut set).unwrap();
    for pair in &set.pairs {
        let magnitude = pair.magnitude.as_ref().unwrap();
        magnitude
            .set(&(magnitude.as_tensor() * 1.1).unwrap())
            .unwrap();
    }
    set
}

fn batch() -> TokenBatch {
    TokenBatch {
        input_ids: vec![vec![5, 90, 300, 17, 44], vec![8, 61, 0, 0, 0]],
        targets: vec![
            vec![None, Some(300), Some(17), Some(44), None],
            vec![Some(61), None, None, None, None],
        ],
    }
}

#[test]
fn every_adapter_gets_a_gradient_that_is_not_zero_once_b_is_not() {
    let decoder = decoder();
    for (set, parts) in [(adapter(&decoder, None), 2), (dora(&decoder), 3)] {
        assert_eq!(set.pairs.len(), decoder.config().linears().len());
        assert_eq!(set.parameters().len(), parts * set.pairs.len());
        let pass = decoder
            .loss_and_gradients(&batch(), &set, None, false)
            .unwrap();
        for (parameter, gradient) in set.parameters().iter().zip(&pass.gradients) {
            assert_eq!(gradient.dims(), parameter.var.dims());
            let numbers = to_vec(gradient).unwrap();
            let zeros = numbers.iter().filter(|&&g| g == 0.0).count();
            let module = parameter.module;
            assert!(zeros * 10 < numbers.len(), "{module}: {zeros} zeros");
        }
    }
}

#[test]
fn a_blocks_backward_leaves_gradients_of_its_adapters_and_its_input_and_of_nothing_frozen() {
    let decoder = decoder();
    let set = adapter(&decoder, None);
    let adapters = [Active {
        set: &set,
        strength: 1.0,
    }];
    let terms = decoder.terms(&adapters, None).unwrap();
    let packed = Packed::trained(&batch()).unwrap();
    let pass = decoder.pass(&packed, 0).unwrap();
    let x = decoder.embed(&packed.ids).unwrap();
    for (wanted, goal) in [
        (true, Goal::Output),
        (true, Goal::Replay),
        (false, Goal::Output),
    ] {
        let tape = Tape::recording();
        if wanted {
            tape.want(&x);
        }
        for term in terms[1].iter().flatten() {
            tape.want(&term.a);
            tape.want(&term.b);
        }
        let y = decoder.blocks[1]
            .forward(&tape, &x, &terms[1], &pass, None, goal)
            .unwrap();
        let mut found = tape.pull(&y, x.ones_like().unwrap()).unwrap();
        assert_eq!(found.take(&x).is_some(), wanted);
        for term in terms[1].iter().flatten() {
            assert!(found.take(&term.a).is_some() && found.take(&term.b).is_some());
        }
        assert_eq!(found.left(), 0);
    }
}

#[test]
fn an_adapter_on_some_layers_gets_the_gradients_it_gets_beside_the_others() {
    let decoder = decoder();
    let (all, some) = (adapter(&decoder, None), adapter(&decoder, Some((2, 3))));
    // The same numbers in the common layers, none in the others: the same function.
    for pair in &all.pairs {
        match some.index.get(&pair.module) {
            Some(&i) => {
                pair.a.set(&some.pairs[i].a).unwrap();
                pair.b.set(&some.pairs[i].b).unwrap();
            }
            None => pair.b.set(&pair.b.zeros_like().unwrap()).unwrap(),
        }
    }
    let pass = |set: &LoraSet, recompute| {
        decoder
            .loss_and_gradients(&batch(), set, None, recompute)
            .unwrap()
    };
    let expected = pass(&all, false);
    for recompute in [false, true] {
        let got = pass(&some, recompute);
        assert_eq!(
            got.loss_sum.value().unwrap(),
            expected.loss_sum.value().unwrap()
        );
        for (parameter, gradient) in some.parameters().iter().zip(&got.gradients) {
            let same = |p: &Parameter<'_>| (p.module, p.part) == (parameter.module, parameter.part);
            let among_all = all.parameters().iter().position(same).unwrap();
            assert_eq!(
                to_vec(gradient).unwrap(),
                to_vec(&expected.gradients[among_all]).unwrap()
            );
        }
    }
}

#[test]
fn what_layers_share_gets_the_sum_of_their_gradients() {
    let decoder = decoder();
    let modules = match_targets(decoder.config(), true, &[], None).unwrap();
    let spec = LoraSpec {
        share_layers: true,
        ..LoraSpec::lora(4)
    };
    let shared = LoraSet::new(&modules, spec.clone(), 1, &Device::Cpu).unwrap();
    for parameter in shared.parameters() {
        let moved = parameter.var.as_tensor().rand_like(-0.05, 0.05).unwrap();
        parameter.var.set(&moved).unwrap();
    }
    // The same numbers, a copy for every layer: the same function.
    let copy = |var: &Variable| Variable::from_tensor(&var.as_tensor().copy().unwrap()).unwrap();
    let pairs = shared.pairs.iter().map(|pair| LoraPair {
        a: copy(&pair.a),
        b: copy(&pair.b),
        ..pair.clone()
    });
    let alone = LoraSet::from_pairs(pairs.collect(), spec);
    for recompute in [false, true] {
        let pass = |set: &LoraSet| {
            decoder
                .loss_and_gradients(&batch(), set, None, recompute)
                .unwrap()
        };
        let (got, each) = (pass(&shared), pass(&alone));
        assert_eq!(
            got.loss_sum.value().unwrap(),
            each.loss_sum.value().unwrap()
        );
        assert_eq!(
            got.gradients.len(),
            2 * decoder.config().block_linears().len()
        );
        for (parameter, gradient) in shared.parameters().iter().zip(&got.gradients) {
            let within = |module: &str| module.splitn(4, '.').last().map(str::to_owned);
            let mut sum = vec![0.0; gradient.elem_count()];
            for (other, addend) in alone.parameters().iter().zip(&each.gradients) {
                if (within(other.module), other.part) == (within(parameter.module), parameter.part)
                {
                    let addend = to_vec(addend).unwrap();
                    sum.iter_mut().zip(addend).for_each(|(s, a)| *s += a);
                }
            }
            let gradient = to_vec(gradient).unwrap();
            let largest = sum.iter().fold(0f32, |a, b| a.max(b.abs()));
            for (got, expected) in gradient.iter().zip(&sum) {
                assert!((got - expected).abs() < 1e-5 * largest, "{got} {expected}");
            }
        }
    }
}

#[test]
fn a_fresh_dora_adapter_is_the_bare_base() {
    let decoder = decoder();
    let modules = match_targets(decoder.config(), true, &[], None).unwrap();
    let mut set = LoraSet::new(&modules, LoraSpec::lora(4), 1, &Device::Cpu).unwrap();
    decoder.add_magnitudes(&mut set).unwrap();
    let adapters = [Active {
        set: &set,
        strength: 1.0,
    }];
    let loss = |adapters: &[Active<'_>]| {
        let (loss, tokens) = decoder.loss(&batch(), adapters).unwrap();
        (loss.value().unwrap(), tokens)
    };
    assert_eq!(loss(&adapters), loss(&[]));
}

#[test]
fn padding_and_the_batchs_other_rows_change_nothing() {
    let decoder = decoder();
    let set = adapter(&decoder, None);
    let whole = decoder
        .loss_and_gradients(&batch(), &set, None, true)
        .unwrap();
    let mut sum = 0.0;
    let TokenBatch { input_ids, targets } = batch();
    for (ids, targets) in input_ids.into_iter().zip(targets) {
        let row = TokenBatch {
            input_ids: vec![ids],
            targets: vec![targets],
        };
        sum += decoder
            .loss_and_gradients(&row, &set, None, true)
            .unwrap()
            .loss_sum
            .value()
            .unwrap();
    }
    let whole_loss = whole.loss_sum.value().unwrap();
    assert!((sum - whole_loss).abs() < 1e-5 * sum);
    assert_eq!(whole.trained_tokens, 4);
}

/// Records packed into one row are rows of a batch to the decoder: what one holds must not reach
/// the other.
#[test]
fn no_record_sees_another_of_its_batch() {
    let decoder = decoder();
    let set = adapter(&decoder, None);
    let adapters = [Active {
        set: &set,
        strength: 1.0,
    }];
    let (first, other) = (vec![5, 90, 300, 17, 44], vec![700, 3, 21, 8, 250]);
    let second = vec![8u32, 61, 12, 9];
    let logits = |rows: &[Vec<u32>], row: usize| {
        let logits = decoder.logits(rows, &adapters).unwrap();
        to_vec(&logits.get(row).unwrap()).unwrap()
    };
    // Bit for bit, on whichever side of it the record lies that changes.
    assert_eq!(
        logits(&[first.clone(), second.clone()], 1),
        logits(&[other.clone(), second.clone()], 1)
    );
    assert_eq!(
        logits(&[second.clone(), first.clone()], 0),
        logits(&[second.clone(), other.clone()], 0)
    );
    assert_ne!(
        logits(std::slice::from_ref(&first), 0),
        logits(std::slice::from_ref(&other), 0)
    );

    // Gradients of both together are those of each alone, added.
    let batch = |rows: &[&Vec<u32>]| TokenBatch {
        input_ids: rows.iter().map(|&ids| ids.clone()).collect(),
        targets: rows
            .iter()
            .map(|ids| (1..=ids.len()).map(|i| ids.get(i).copied()).collect())
            .collect(),
    };
    let gradients = |rows: &[&Vec<u32>]| {
        let pass = decoder.loss_and_gradients(&batch(rows), &set, None, false);
        let gradients = pass.unwrap().gradients;
        gradients
            .iter()
            .map(|g| to_vec(g).unwrap())
            .collect::<Vec<_>>()
    };
    let together = gradients(&[&first, &second]);
    let (a, b) = (gradients(&[&first]), gradients(&[&second]));
    for ((together, a), b) in together.iter().zip(&a).zip(&b) {
        let largest = together.iter().fold(0f32, |m, x| m.max(x.abs()));
        for ((together, a), b) in together.iter().zip(a).zip(b) {
            assert!((together - a - b).abs() < 1e-5 * largest.max(1e-3));
        }
    }
}

#[test]
fn nothing_to_train_on_is_a_loss_of_zero_with_zero_gradients() {
    let decoder = decoder();
    let set = adapter(&decoder, None);
    let nothing = TokenBatch {
        input_ids: vec![vec![1, 2]],
        targets: vec![vec![None, None]],
    };
    let pass = decoder
        .loss_and_gradients(&nothing, &set, None, true)
        .unwrap();
    let loss = pass.loss_sum.value().unwrap();
    assert_eq!((loss, pass.trained_tokens), (0.0, 0));
    assert_eq!(pass.gradients.len(), set.parameters().len());
}

#[test]
fn what_cannot_be_computed_is_said_in_a_sentence() {
    let decoder = decoder();
    let error = |ids: Vec<u32>| {
        let error = decoder.logits(&[ids], &[]).unwrap_err();
        assert_eq!(crate::error::exit_code(&error), 2);
        error.to_string()
    };
    assert!(error(vec![0, 9_999]).contains("token id 9999"));
    assert!(error(vec![0; 513]).contains("context of 512"));
    let set = adapter(&decoder, None);
    let mut other = set.clone();
    other.pairs[0].module = "model.layers.77.mlp.up_proj".to_owned();
    let adapters = [Active {
        set: &other,
        strength: 1.0,
    }];
    let error = decoder.logits(&[vec![1]], &adapters).unwrap_err();
    assert!(error.to_string().contains("another base"), "{error}");
}

/// Loss and gradients of the same batch and adapter, with dropout.
fn trained(dtype: DType, recompute: bool) -> (f64, Vec<Vec<f32>>) {
    let source = Source::open("builtin:tiny-llama").unwrap();
    let decoder = Decoder::new(&source, &Device::Cpu, dtype).unwrap();
    let mut set = adapter(&decoder, None);
    set.spec.dropout = 0.1;
    let key = DropoutKey {
        seed: 1,
        step: 2,
        micro_batch: 0,
        tokens_before: 0,
    };
    let pass = decoder.loss_and_gradients(&batch(), &set, Some(key), recompute);
    let pass = pass.unwrap();
    let gradients = pass.gradients.iter().map(|g| to_vec(g).unwrap());
    (pass.loss_sum.value().unwrap(), gradients.collect())
}

#[test]
fn a_pass_through_a_gpus_kernels_gives_the_cpus_loss_and_gradients() {
    let (loss, gradients) = trained(DType::F32, false);
    for (dtype, recompute, tolerance) in [
        (DType::F32, false, 1e-4),
        (DType::F32, true, 1e-4),
        (DType::BF16, true, 3e-2),
    ] {
        let (got, got_gradients) = emulated(|| trained(dtype, recompute));
        assert!(
            (got - loss).abs() < tolerance * loss,
            "{dtype:?}: {got} {loss}"
        );
        for (got, expected) in got_gradients.iter().zip(&gradients) {
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
            let error = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
            let size = norm(&mut expected.iter().copied());
            let allowed = 5.0 * tolerance as f32 * size;
            assert!(error <= allowed, "{dtype:?}: {error} of {size}");
        }
    }
}

#[test]
fn text_goes_on_through_a_gpus_kernels_as_on_the_cpu() {
    let logits = || {
        let decoder = decoder();
        let set = adapter(&decoder, None);
        let adapters = [Active {
            set: &set,
            strength: 1.0,
        }];
        let mut cache = decoder.cache(&adapters).unwrap();
        decoder.next_logits(&[5, 90, 300], &mut cache).unwrap();
        to_vec(&decoder.next_logits(&[17], &mut cache).unwrap()).unwrap()
    };
    let (got, expected) = (emulated(logits), logits());
    for (a, b) in got.iter().zip(&expected) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}
