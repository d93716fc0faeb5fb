//! A device for tests: the kernels' own sources, compiled for the host, and BLAS as it is defined.
//!
//! What this shows: that kernels and the code that starts them compute the right numbers, stay within
//! their tensors and shared memory, do not depend on the order of threads and blocks, and write all
//! they are to write. What it cannot show: that nvcc and a GPU agree, and how fast they are.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, bail};
use libloading::{Library, Symbol};

use super::launch::{Argument, Blocks};
use super::product::Call;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Whether tensors of the host are given to kernels, on this thread.
pub fn is_on() -> bool {
    ON.get()
}

/// Runs `work` with the emulated device: tensors of the CPU stand for tensors of a GPU.
pub fn emulated<R>(work: impl FnOnce() -> R) -> R {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            ON.set(false);
        }
    }
    ON.set(true);
    let _off = Off;
    work()
}

/// As emulation/device.h has it.
#[repr(C)]
struct Launch {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    order: u32,
}

type Kernel = unsafe extern "C" fn(*const Launch, *mut *mut c_void);

/// Bytes on either side of a tensor that no kernel may touch; read as floats, they are NaN.
const GUARD: usize = 64;

/// A tensor's bytes between guards, at an address aligned as the tensor's own is on a GPU.
struct Guarded {
    words: Vec<u128>,
    start: usize,
    length: usize,
}

impl Guarded {
    fn of(tensor: &Tensor) -> Guarded {
        let bytes = bytes_of(tensor);
        let layout = tensor.layout();
        let start = GUARD + layout.start_offset() * tensor.dtype().size_in_bytes() % 16;
        let words = vec![u128::MAX; (start + bytes.len() + GUARD).div_ceil(16)];
        let mut guarded = Guarded {
            words,
            start,
            length: bytes.len(),
        };
        guarded.all()[start..start + bytes.len()].copy_from_slice(&bytes);
        guarded
    }

    fn all(&mut self) -> &mut [u8] {
        let length = self.words.len() * 16;
        // SAFETY: u128 has no padding, and any byte is a valid u8.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), length) }
    }

    fn bytes(&mut self) -> &[u8] {
        let range = self.start..self.start + self.length;
        &self.all()[range]
    }

    fn check(&mut self, kernel: &str, argument: usize) {
        let (start, end) = (self.start, self.start + self.length);
        let all = self.all();
        let untouched = all[..start].iter().chain(&all[end..]).all(|&b| b == 0xff);
        assert!(untouched, "{kernel} wrote beside its argument {argument}");
    }
}

/// Runs a kernel twice, with threads and blocks in opposite orders, and holds the results against
/// each other.
pub(super) fn launch(kernel: &str, grid: Blocks, arguments: &[Argument<'_>]) {
    let name = format!("emulated_{kernel}");
    // SAFETY: every kernel is compiled under this name with this signature.
    let function: Symbol<'_, Kernel> = unsafe { library().get(name.as_bytes()) }
        .unwrap_or_else(|e| panic!("there is no kernel {kernel}: {e}"));
    let runs = [0u32, 3].map(|order| {
        let mut tensors: Vec<Option<Guarded>> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Tensor(tensor) => Some(Guarded::of(tensor)),
                _ => None,
            })
            .collect();
        let mut values: Vec<u64> = arguments.iter().map(Argument::bits).collect();
        for (value, tensor) in values.iter_mut().zip(&mut tensors) {
            if let Some(tensor) = tensor {
                let start = tensor.start;
                *value = tensor.all()[start..].as_mut_ptr() as u64;
            }
        }
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| (value as *mut u64).cast())
            .collect();
        let launch = Launch {
            grid: [grid.blocks.0, grid.blocks.1, grid.blocks.2],
            block: [grid.threads.0, grid.threads.1, grid.threads.2],
            shared_bytes: grid.shared_bytes,
            order,
        };
        // SAFETY: the arguments are what the kernel's signature asks for, or this test ends here.
        unsafe { function(&launch, pointers.as_mut_ptr()) };
        for (index, tensor) in tensors.iter_mut().enumerate() {
            if let Some(tensor) = tensor {
                tensor.check(kernel, index);
            }
        }
        tensors
    });
    let [first, second] = runs;
    for ((argument, first), second) in arguments.iter().zip(first).zip(second) {
        if let (Argument::Tensor(tensor), Some(mut first), Some(mut second)) =
            (argument, first, second)
        {
            assert_eq!(
                first.bytes(),
                second.bytes(),
                "{kernel} depends on the order of its threads"
            );
            set_bytes(tensor, first.bytes());
        }
    }
}

/// A tensor full of NaN.
pub(super) fn poisoned(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let tensor = Tensor::zeros(shape, dtype, &Device::Cpu)?;
    let length = tensor.elem_count() * dtype.size_in_bytes();
    set_bytes(&tensor, &vec![0xff; length]);
    Ok(tensor)
}

/// A product as BLAS defines it, sums in f32.
pub(super) fn product(c: &Tensor, a: &Tensor, b: &Tensor, call: Call) {
    let (a, b) = (floats(a, call.dtype), floats(b, call.dtype));
    let mut out = floats(c, c.dtype());
    // Column-major: element (row, column) of a matrix with leading dimension `ld`.
    let element = |x: &[f32], ld: usize, transposed: bool, row: usize, column: usize| {
        let (row, column) = if transposed {
            (column, row)
        } else {
            (row, column)
        };
        assert!(row < ld, "a leading dimension too small");
        x[column * ld + row]
    };
    for column in 0..call.n {
        for row in 0..call.m {
            let sum: f32 = (0..call.k)
                .map(|k| {
                    element(&a, call.lda, call.transpose_a, row, k)
                        * element(&b, call.ldb, call.transpose_b, k, column)
                })
                .sum();
            let at = &mut out[column * call.ldc + row];
            *at = call.alpha * sum
                + if call.beta == 0.0 {
                    0.0
                } else {
                    call.beta * *at
                };
        }
    }
    let out = Tensor::from_vec(out, c.shape(), &Device::Cpu)
        .and_then(|out| out.to_dtype(c.dtype()))
        .unwrap();
    set_bytes(c, &bytes_of(&out));
}

/// A tensor's memory as numbers of type `dtype`.
fn floats(tensor: &Tensor, dtype: DType) -> Vec<f32> {
    let bytes = bytes_of(tensor);
    let pairs = |number: fn([u8; 2]) -> f32| {
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs.iter().map(|&pair| number(pair)).collect()
    };
    match dtype {
        DType::BF16 => pairs(|pair| half::bf16::from_le_bytes(pair).to_f32()),
        DType::F16 => pairs(|pair| half::f16::from_le_bytes(pair).to_f32()),
        _ => {
            let (fours, _) = bytes.as_chunks::<4>();
            fours.iter().map(|&four| f32::from_le_bytes(four)).collect()
        }
    }
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let out = RefCell::new(Vec::new());
    let read = |bytes: &mut [u8]| *out.borrow_mut() = bytes.to_vec();
    tensor.inplace_op1(&WithBytes(read)).unwrap();
    out.into_inner()
}

fn set_bytes(tensor: &Tensor, new: &[u8]) {
    let write = |bytes: &mut [u8]| bytes.copy_from_slice(new);
    tensor.inplace_op1(&WithBytes(write)).unwrap();
}

/// Does something with a contiguous tensor's memory.
struct WithBytes<F>(F);

impl<F: Fn(&mut [u8])> InplaceOp1 for WithBytes<F> {
    fn name(&self) -> &'static str {
        "with-bytes"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a kernel got a tensor that is not contiguous");
        };
        fn cast<T>(numbers: &mut [T]) -> &mut [u8] {
            let length = std::mem::size_of_val(numbers);
            // SAFETY: the types below have no padding, and any bits are valid for them.
            unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), length) }
        }
        (self.0)(match storage {
            CpuStorage::U8(x) => cast(&mut x[start..end]),
            CpuStorage::U32(x) => cast(&mut x[start..end]),
            CpuStorage::F32(x) => cast(&mut x[start..end]),
            CpuStorage::F64(x) => cast(&mut x[start..end]),
            CpuStorage::BF16(x) => cast(&mut x[start..end]),
            CpuStorage::F16(x) => cast(&mut x[start..end]),
            _ => bail!("kernels know no such numbers"),
        });
        Ok(())
    }
}

/// The kernels, compiled for the host once per version of their sources.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = build();
        // SAFETY: the library runs no code when it is opened.
        unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    })
}

fn build() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/cuda");
    let mut hash = blake3::Hasher::new();
    for folder in [sources.clone(), sources.join("emulation")] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e != "rs"))
            .collect();
        files.sort();
        for file in files {
            hash.update(&std::fs::read(file).unwrap());
        }
    }
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().unwrap();
    let name = format!("kernels-{}.so", &hash.finalize().to_hex()[..16]);
    let library = folder.join(name);
    if library.exists() {
        return library;
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let unfinished = tempfile::Builder::new().suffix(".so").tempfile_in(folder);
    let unfinished = unfinished.unwrap().into_temp_path();
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-w"])
        // Fibers leave their frames by longjmp; sums keep their order; logits become gradients in place.
        .args([
            "-U_FORTIFY_SOURCE",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
        ])
        .arg("-o")
        .arg(&unfinished)
        .arg(sources.join("emulation/all.cpp"))
        .output()
        .unwrap_or_else(|e| {
            panic!("the kernels' tests need a C++17 compiler; {compiler} does not start: {e}")
        });
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler}: {told}");
    unfinished.persist(&library).unwrap();
    library
}
