//! CUDA itself: kernels, cuBLAS, and the memory of the device.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys as blas;
use candle_core::cuda_backend::cudarc::driver::sys as cuda;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, LaunchConfig, PushKernelArg, result,
};
use candle_core::cuda_backend::{CudaDevice, CudaFunc, DeviceId};
use candle_core::{CudaStorage, DType, Device, Error, Result, Storage, Tensor, bail};

use super::launch::{Argument, Blocks};
use super::product::Call;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

thread_local! {
    /// Kernels that were looked up, by device and name.
    static FUNCTIONS: RefCell<HashMap<(DeviceId, String), Rc<CudaFunc>>> = RefCell::default();
}

/// Shared memory that a block may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

fn cuda_device(device: &Device) -> Result<&CudaDevice> {
    device.as_cuda_device()
}

fn failed(what: &str, error: impl std::fmt::Debug) -> Error {
    Error::Msg(format!("{what}: {error:?}"))
}

/// Makes a device that was just opened ready for a run: freed memory stays with the process, no
/// events are recorded (there is one stream), and products of f32 are f32, not TF32.
///
/// # Errors
/// The driver fails.
pub fn prepare(device: &Device) -> Result<()> {
    let device = cuda_device(device)?;
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

/// Bytes of tensors on the device now, and the most there were; `None` where the driver does not
/// count.
///
/// # Errors
/// The driver fails.
pub fn memory_in_use(device: &Device) -> Result<Option<(u64, u64)>> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let Some(pool) = pool(cuda_device(device)?)? else {
        return Ok(None);
    };
    let read = |attribute| {
        let mut bytes = 0u64;
        // SAFETY: the pool is the device's own; these attributes are u64.
        unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }
            .map_err(|e| failed("the memory pool's counts", e))?;
        Ok::<_, Error>(bytes)
    };
    Ok(Some((
        read(cuda::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        read(cuda::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
    )))
}

/// Returns freed memory to the driver: after memory ran out, a smaller attempt must not meet what
/// the larger one left in pieces.
///
/// # Errors
/// The driver fails.
pub fn trim_memory(device: &Device) -> Result<()> {
    if !device.is_cuda() {
        return Ok(());
    }
    let device = cuda_device(device)?;
    device
        .cuda_stream()
        .synchronize()
        .map_err(|e| failed("waiting for the device", e))?;
    match pool(device)? {
        // SAFETY: the pool is the device's own.
        Some(pool) => unsafe { result::mem_pool::trim_to(pool, 0) }
            .map_err(|e| failed("giving memory back", e)),
        None => Ok(()),
    }
}

fn function(device: &CudaDevice, module: &str, kernel: &str, shared: u32) -> Result<Rc<CudaFunc>> {
    let key = (device.id(), kernel.to_owned());
    if let Some(known) = FUNCTIONS.with_borrow(|known| known.get(&key).cloned()) {
        return Ok(known);
    }
    let Some((_, ptx)) = KERNELS.iter().find(|(name, _)| *name == module) else {
        bail!("no kernels are called {module}");
    };
    let found = Rc::new(device.get_or_load_custom_func(kernel, module, ptx)?);
    if shared > SHARED_WITHOUT_ASKING {
        let attribute = cuda::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        found
            .set_attribute(attribute, shared as i32)
            .map_err(|e| failed(&format!("{shared} bytes of shared memory for {kernel}"), e))?;
    }
    FUNCTIONS.with_borrow_mut(|known| known.insert(key, found.clone()));
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
    let mut builder = function.builder();
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
