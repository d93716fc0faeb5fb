//! Compiles the kernels of `src/ops/cuda` to PTX, where the `cuda` feature is asked for. Without it
//! there is nothing to do.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// The oldest GPUs that the kernels are for: 8.0 is the first with tensor cores for bf16. The driver
/// compiles this PTX for newer ones.
const ARCHITECTURE: &str = "compute_80";
/// Padded head sizes of `attention.cu`; src/ops/cuda/attention.rs has the same list.
const HEADS: [usize; 7] = [32, 48, 64, 80, 96, 128, 160];

struct Module {
    name: String,
    source: PathBuf,
    defines: Vec<String>,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let sources = Path::new("src/ops/cuda");
    println!("cargo::rerun-if-changed={}", sources.display());
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let nvcc = nvcc();
    let modules = modules(sources);
    // Each takes seconds; together they take as long as the longest where there are cores.
    let queue = Mutex::new(modules.iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(module) = next() {
                    compile(&nvcc, module, &out);
                }
            });
        }
    });
    let mut table = "/// The PTX of every module of kernels, by name.\n".to_owned();
    table.push_str("const KERNELS: &[(&str, &str)] = &[\n");
    for module in &modules {
        let name = &module.name;
        let line = writeln!(
            table,
            "    ({name:?}, include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\"))),"
        );
        line.unwrap_or_else(|e| fail(&e.to_string()));
    }
    table.push_str("];\n");
    fs::write(out.join("kernels.rs"), table)
        .unwrap_or_else(|e| fail(&format!("{}: {e}", out.display())));
}

fn modules(sources: &Path) -> Vec<Module> {
    let plain = [
        "attention_plain",
        "dequantize",
        "images",
        "loss",
        "norm",
        "optimizer",
        "pointwise",
    ];
    let mut modules: Vec<Module> = plain
        .iter()
        .map(|name| Module {
            name: (*name).to_owned(),
            source: sources.join(format!("{name}.cu")),
            defines: Vec::new(),
        })
        .collect();
    for number in ["bf16", "f16"] {
        for head in HEADS {
            modules.push(Module {
                name: format!("attention_{head}_{number}"),
                source: sources.join("attention.cu"),
                defines: vec![
                    format!("-DHEAD={head}"),
                    format!("-DNUMBER={number}"),
                    format!("-DNAME={number}"),
                ],
            });
        }
    }
    modules
}

/// The compiler: `$NVCC`, else that of `$CUDA_HOME` or `$CUDA_PATH`, else the one on the PATH.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    homes
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .find(|nvcc| nvcc.is_file())
        .unwrap_or_else(|| "nvcc".into())
}

fn compile(nvcc: &Path, module: &Module, out: &Path) {
    let mut command = Command::new(nvcc);
    command
        .args(["--ptx", "-std=c++17", "-O3", "-arch", ARCHITECTURE])
        .args(&module.defines)
        .arg("-o")
        .arg(out.join(format!("{}.ptx", module.name)))
        .arg(&module.source);
    if let Some(host) = env::var_os("NVCC_CCBIN") {
        command.arg("-ccbin").arg(host);
    }
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!(
            "{} could not compile {}: {}",
            nvcc.display(),
            module.source.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(e) => fail(&format!(
            "the feature `cuda` needs NVIDIA's compiler, and {} does not start ({e}): install the \
             CUDA toolkit, or set CUDA_HOME or NVCC; without the feature loradeck computes on the \
             CPU",
            nvcc.display()
        )),
    }
}

fn fail(what: &str) -> ! {
    println!("cargo::error={what}");
    std::process::exit(1)
}
