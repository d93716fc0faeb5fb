//! CUDA itself: kernels, cuBLAS, and the memory of the device.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Instant;

use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys as blas;
use candle_core::cuda_backend::cudarc::driver::sys as cuda;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, LaunchConfig, PinnedHostSlice, PushKernelArg, result,
};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{CudaStorage, DType, Device, Error, Result, Storage, Tensor, bail};

use super::launch::{Argument, Blocks};
use super::product::Call;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

thread_local! {
    /// Kernels that were looked up, by device and name, and the most shared memory each may have.
    static FUNCTIONS: RefCell<HashMap<(DeviceId, String), (Rc<CudaFunction>, u32)>> =
        RefCell::default();
}

/// Shared memory that a block may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

fn cuda_device(device: &Device) -> Result<&CudaDevice> {
    device.as_cuda_device()
}

fn failed(what: &str, error: impl std::fmt::Debug) -> Error {
    Error::Msg(format!("{what}: {error:?}"))
}

/// The device of this process's work.
static PREPARED: Mutex<Option<CudaDevice>> = Mutex::new(None);

fn prepared() -> Option<CudaDevice> {
    PREPARED.lock().ok()?.clone()
}

/// Makes a device that was just opened ready for a run: freed memory stays with the process, no
/// events are recorded (there is one stream), and products of f32 are f32, not TF32.
///
/// # Errors
/// The driver fails.
pub fn prepare(device: &Device) -> Result<()> {
    let device = cuda_device(device)?;
    if let Ok(mut prepared) = PREPARED.lock() {
        *prepared = Some(device.clone());
    }
    // SAFETY: all work is on the stream of one thread, as told in the module above.
    unsafe { device.disable_event_tracking() };
    candle_core::cuda_backend::set_gemm_reduced_precision_f32(false);
    candle_core::cuda_backend::set_gemm_reduced_precision_bf16(false);
    candle_core::cuda_backend::set_gemm_reduced_precision_f16(false);
    let Some(pool) = pool(device)? else {
        return Ok(());
    };
    let mut threshold = u64::MAX;
    let attribute = cuda::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own; this attribute is a u64.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) }
        .map_err(|e| failed("the release threshold of the memory pool", e))
}

/// The pool that tensors come from; `None` where the driver has none.
fn pool(device: &CudaDevice) -> Result<Option<cuda::CUmemoryPool>> {
    let context = device.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    let ordinal = context.ordinal();
    let ordinal = i32::try_from(ordinal).map_err(|e| failed("the device's number", e))?;
    let device = result::device::get(ordinal).map_err(|e| failed("the device", e))?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device exists; the pool's address is written to a place for one.
    let status = unsafe { cuda::cuDeviceGetDefaultMemPool(&mut pool, device) };
    status
        .result()
        .map_err(|e| failed("the device's memory pool", e))?;
    Ok(Some(pool))
}

/// Bytes of tensors on the prepared device now, and the most there were; `None` where none was
/// prepared, or the driver does not count. From any thread.
pub fn memory_in_use() -> Option<(u64, u64)> {
    let device = prepared()?;
    let pool = pool(&device).ok()??;
    let read = |attribute| {
        let mut bytes = 0u64;
        // SAFETY: the pool is the device's own; these attributes are u64.
        unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }
            .ok()?;
        Some(bytes)
    };
    Some((
        read(cuda::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        read(cuda::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
    ))
}

/// The prepared device as NVML and `nvidia-smi` call it: `GPU-` and its UUID. CUDA counts devices in an
/// order of its own, and `CUDA_VISIBLE_DEVICES` hides some.
pub fn device_uuid() -> Option<String> {
    let device = prepared()?;
    let ordinal = i32::try_from(device.cuda_stream().context().ordinal()).ok()?;
    let uuid = result::device::get_uuid(result::device::get(ordinal).ok()?).ok()?;
    let hex: String = uuid
        .bytes
        .iter()
        .map(|&b| format!("{:02x}", b as u8))
        .collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Some(format!("GPU-{}", parts.join("-")))
}

/// Returns freed memory of the prepared device to the driver: after memory ran out, a smaller attempt
/// must not meet what the larger one left in pieces. What cannot be returned stays.
pub fn trim_memory() {
    let Some(device) = prepared() else { return };
    if device.cuda_stream().synchronize().is_ok()
        && let Ok(Some(pool)) = pool(&device)
    {
        // SAFETY: the pool is the device's own.
        let _ = unsafe { result::mem_pool::trim_to(pool, 0) };
    }
}

/// Floating-point operations a second that large products of bf16 reach.
///
/// # Errors
/// The device fails.
pub fn device_product_rate(device: &Device) -> Result<f64> {
    const SIZE: usize = 8192;
    const TIMES: usize = 10;
    let stream = cuda_device(device)?.cuda_stream();
    let zeros = |dtype| Tensor::zeros((SIZE, SIZE), dtype, device);
    let (a, b, c) = (
        zeros(DType::BF16)?,
        zeros(DType::BF16)?,
        zeros(DType::BF16)?,
    );
    let call = Call {
        dtype: DType::BF16,
        transpose_a: true,
        transpose_b: false,
        m: SIZE,
        n: SIZE,
        k: SIZE,
        lda: SIZE,
        ldb: SIZE,
        ldc: SIZE,
        alpha: 1.0,
        beta: 0.0,
    };
    let wait = || {
        stream
            .synchronize()
            .map_err(|e| failed("waiting for the device", e))
    };
    product(&c, &a, &b, call)?;
    wait()?;
    let clock = Instant::now();
    for _ in 0..TIMES {
        product(&c, &a, &b, call)?;
    }
    wait()?;
    let flops = 2.0 * (SIZE as f64).powi(3) * TIMES as f64;
    Ok(flops / clock.elapsed().as_secs_f64())
}

fn function(
    device: &CudaDevice,
    module: &str,
    kernel: &str,
    shared: u32,
) -> Result<Rc<CudaFunction>> {
    let key = (device.id(), kernel.to_owned());
    let known = FUNCTIONS.with_borrow(|known| known.get(&key).cloned());
    let (found, allowed) = match known {
        Some(known) => known,
        None => {
            let Some((_, ptx)) = KERNELS.iter().find(|(name, _)| *name == module) else {
                bail!("no kernels are called {module}");
            };
            let found = device.get_or_load_custom_func(kernel, module, ptx)?;
            (Rc::new(found.into_cuda_function()), 0)
        }
    };
    if allowed > 0 && shared <= allowed {
        return Ok(found);
    }
    // The same kernel may be started with other heads later, and need more.
    if shared > SHARED_WITHOUT_ASKING {
        let attribute =
            cuda::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        found
            .set_attribute(attribute, shared as i32)
            .map_err(|e| failed(&format!("{shared} bytes of shared memory for {kernel}"), e))?;
    }
    let allowed = shared.max(SHARED_WITHOUT_ASKING);
    FUNCTIONS.with_borrow_mut(|known| known.insert(key, (found.clone(), allowed)));
    Ok(found)
}

/// The device address of a contiguous tensor's first number. Good as long as the tensor.
fn address(tensor: &Tensor, stream: &CudaStream) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a kernel got a tensor that is not on a GPU");
    };
    if !layout.is_contiguous() {
        bail!("a kernel got a tensor that is not contiguous");
    }
    fn start<T: candle_core::cuda_backend::CudaDType>(
        storage: &CudaStorage,
        stream: &CudaStream,
    ) -> Result<u64> {
        let (address, _events) = storage.as_cuda_slice::<T>()?.device_ptr(stream);
        Ok(address)
    }
    let start = match tensor.dtype() {
        DType::F32 => start::<f32>(storage, stream)?,
        DType::BF16 => start::<half::bf16>(storage, stream)?,
        DType::F16 => start::<half::f16>(storage, stream)?,
        DType::F64 => start::<f64>(storage, stream)?,
        DType::U32 => start::<u32>(storage, stream)?,
        DType::U8 => start::<u8>(storage, stream)?,
        other => bail!("a kernel got numbers of type {other:?}"),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// Starts a kernel.
pub(super) fn launch(
    device: &Device,
    module: &str,
    kernel: &str,
    grid: Blocks,
    arguments: &[Argument<'_>],
) -> Result<()> {
    let device = cuda_device(device)?;
    let stream = device.cuda_stream();
    let function = function(device, module, kernel, grid.shared_bytes)?;
    let values = arguments
        .iter()
        .map(|argument| match argument {
            Argument::Tensor(tensor) => address(tensor, &stream),
            other => Ok(other.bits()),
        })
        .collect::<Result<Vec<u64>>>()?;
    let mut builder = stream.launch_builder(&function);
    for value in &values {
        // The driver reads as many bytes as the parameter has, from the first on.
        builder.arg(value);
    }
    let config = LaunchConfig {
        grid_dim: grid.blocks,
        block_dim: grid.threads,
        shared_mem_bytes: grid.shared_bytes,
    };
    // SAFETY: the arguments are those of the kernel's signature, and what it writes to has room for
    // it: the callers beside this file see to both, and the emulation checks them.
    match unsafe { builder.launch(config) } {
        Ok(_) => Ok(()),
        Err(e) => Err(failed(&format!("the kernel {kernel} {grid:?}"), e)),
    }
}

/// Memory of the host that the device writes to by itself.
pub(super) struct Pinned(PinnedHostSlice<f64>);

impl Pinned {
    pub fn new(device: &Device, length: usize) -> Result<Self> {
        let stream = cuda_device(device)?.cuda_stream();
        // SAFETY: what is read from it was copied there before.
        let pinned = unsafe { stream.context().alloc_pinned_with_flags(length, 0) };
        let pinned = pinned.map_err(|e| failed("memory that the device can write to", e))?;
        Ok(Pinned(pinned))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies `numbers`, of as many, once the work before this is done; does not wait.
    pub fn copy_from(&mut self, numbers: &Tensor) -> Result<()> {
        let stream = cuda_device(numbers.device())?.cuda_stream();
        let (storage, layout) = numbers.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            bail!("numbers that are read later must be contiguous, on a GPU");
        };
        let numbers = storage.as_cuda_slice::<f64>()?.slice(start..end);
        stream
            .memcpy_dtoh(&numbers, &mut self.0)
            .map_err(|e| failed("reading numbers of the device", e))
    }

    /// Waits for the last copy.
    pub fn read(&self) -> Result<Vec<f64>> {
        let numbers = self.0.as_slice();
        let numbers = numbers.map_err(|e| failed("waiting for the device", e))?;
        Ok(numbers.to_vec())
    }
}

fn blas_type(dtype: DType) -> Result<blas::cudaDataType> {
    Ok(match dtype {
        DType::F32 => blas::cudaDataType::CUDA_R_32F,
        DType::BF16 => blas::cudaDataType::CUDA_R_16BF,
        DType::F16 => blas::cudaDataType::CUDA_R_16F,
        other => bail!("a product of numbers of type {other:?}"),
    })
}

/// `c = alpha op(a) op(b) + beta c` as BLAS has it, sums in f32.
pub(super) fn product(c: &Tensor, a: &Tensor, b: &Tensor, call: Call) -> Result<()> {
    let device = cuda_device(c.device())?;
    let stream = device.cuda_stream();
    let handle = device.cublas_handle();
    let operation = |transposed| match transposed {
        true => blas::cublasOperation_t::CUBLAS_OP_T,
        false => blas::cublasOperation_t::CUBLAS_OP_N,
    };
    let size = |size: usize| i32::try_from(size).map_err(|e| failed("a product's size", e));
    // SAFETY: shapes and leading dimensions are those of the matrices, as `multiply` checks.
    unsafe {
        gemm_ex(
            *handle.handle(),
            operation(call.transpose_a),
            operation(call.transpose_b),
            size(call.m)?,
            size(call.n)?,
            size(call.k)?,
            (&raw const call.alpha).cast(),
            address(a, &stream)? as *const _,
            blas_type(call.dtype)?,
            size(call.lda)?,
            address(b, &stream)? as *const _,
            blas_type(call.dtype)?,
            size(call.ldb)?,
            (&raw const call.beta).cast(),
            address(c, &stream)? as *mut _,
            blas_type(c.dtype())?,
            size(call.ldc)?,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(|e| failed(&format!("{call:?}"), e))
}
