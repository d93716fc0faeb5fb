//! Paths of the config: made absolute, checked for existence; and what a base's path tells of it.

use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::TaskType;
use super::hub::{self, Repo, RepoKind};
use super::values::{Fault, quoted, text};

/// Bases compiled into the program.
pub(super) const BUILTIN: &[&str] = &["builtin:tiny-llama", "builtin:tiny-sd"];

/// A path as YAML.
pub(super) fn show(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// `~` expanded, relative to the working directory made absolute; nothing is looked up on disk.
fn absolute(value: &Value) -> Result<PathBuf, Fault> {
    let written = text(value).map_err(|_| Fault::is_not("a path"))?;
    if written.contains('\0') {
        return Err(Fault::is_not("a path: it holds a zero byte"));
    }
    let expanded = match written.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = std::env::var("HOME").map_err(|_| {
                Fault::new(
                    "begins with `~`, and HOME is not set",
                    "write the path in full",
                )
            })?;
            format!("{home}{rest}")
        }
        _ => written,
    };
    let path = std::path::absolute(&expanded).map_err(|e| {
        Fault::new(
            format!("cannot be made absolute: {e}"),
            "write an absolute path",
        )
    })?;
    // Runs store their paths as text.
    if path.to_str().is_none() {
        return Err(Fault::new(
            "lies in a folder whose name is not UTF-8",
            "rename that folder",
        ));
    }
    Ok(tidy(&path))
}

/// The path without `.`, and without `..` after a plain folder that is no link.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." && !out.is_symlink() && out.is_dir() && out.pop() {
            continue;
        }
        out.push(part);
    }
    out
}

/// A file or folder that exists.
pub(super) fn existing(value: &Value) -> Result<PathBuf, Fault> {
    let path = absolute(value)?;
    exists(&path, value)?;
    Ok(path)
}

fn exists(path: &Path, value: &Value) -> Result<(), Fault> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing(path, value)),
        Err(e) => Err(Fault::new(
            format!("cannot be read: {}: {}", path.display(), plain(&e)),
            "correct the path, or its permissions",
        )),
    }
}

/// An I/O error's reason without the number that the system gives it.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

fn missing(path: &Path, value: &Value) -> Fault {
    let mut fault = Fault::new(
        format!("names nothing: {} does not exist", path.display()),
        "correct the path",
    );
    // The deepest folder that exists says where the path went wrong.
    if let Some(parent) = path.ancestors().skip(1).find(|p| p.is_dir()) {
        if Some(parent) != path.parent() {
            fault.fix = format!(
                "correct the path: {} is the last part that exists",
                parent.display()
            );
        } else if let Some(near) = neighbour(path, parent) {
            fault.fix = format!("did you mean `{near}`?");
        }
    }
    if !Path::new(value.as_str().unwrap_or_default()).is_absolute() {
        fault
            .fix
            .push_str("; relative paths follow the working directory");
    }
    fault
}

/// A name in `parent` much like the path's own.
fn neighbour(path: &Path, parent: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let names: Vec<String> = std::fs::read_dir(parent)
        .ok()?
        .take(1000)
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    super::names::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

/// What the cache has of a repository of the hub. Fetching is not this room's: whoever runs a config
/// has it fetched before.
fn cached(repo: &Repo, flag: &str) -> Result<PathBuf, Fault> {
    repo.cached(&hub::cache_dir()).ok_or_else(|| {
        Fault::new(
            "is neither a file nor a folder here, and is not fetched from the Hugging Face hub yet",
            format!(
                "correct the path (`./{}` would be one), or fetch it: {}",
                repo.id(),
                hub::fetching(repo, flag)
            ),
        )
    })
}

/// `train_data_dir`: a file or folder, or a dataset of the hub.
pub(super) fn data(value: &Value) -> Result<PathBuf, Fault> {
    let written = text(value).map_err(|_| Fault::is_not("a path"))?;
    match Repo::parse(&written, RepoKind::Dataset) {
        Some(repo) => cached(&repo, "--data "),
        None => existing(value),
    }
}

/// `clip_model`: a model's folder, or that of a repository in the cache.
pub(super) fn clip(value: &Value) -> Result<PathBuf, Fault> {
    let written = text(value).map_err(|_| Fault::is_not("a path"))?;
    let path = match Repo::parse(&written, RepoKind::Model) {
        Some(repo) => cached(&repo, "--captions ")?,
        None => existing(value)?,
    };
    match path.join("config.json").is_file() {
        true => Ok(path),
        false => Err(Fault::new(
            format!(
                "is no folder with a model's config.json: {}",
                path.display()
            ),
            "write the folder of a whole CLIP (config.json, model.safetensors, tokenizer files), \
             or `openai/clip-vit-large-patch14`",
        )),
    }
}

/// `base_model`: a built-in base's name, the absolute path of a file or folder, or that of a
/// repository in the cache.
pub(super) fn base(value: &Value) -> Result<String, Fault> {
    let written = text(value)
        .map_err(|_| Fault::is_not("a path, `builtin:tiny-llama` or `builtin:tiny-sd`"))?;
    if written.starts_with("builtin:") {
        return if BUILTIN.contains(&written.as_str()) {
            Ok(written)
        } else {
            Err(Fault::new(
                "is no built-in base",
                format!("the built-in bases: `{}`", BUILTIN.join("`, `")),
            ))
        };
    }
    for scheme in ["https://", "http://", "hf://", "s3://"] {
        if let Some(rest) = written.strip_prefix(scheme) {
            let of_hub = ["huggingface.co/", "hf.co/"];
            let name = of_hub.iter().find_map(|host| rest.strip_prefix(host));
            let name = if scheme == "hf://" { Some(rest) } else { name };
            return Err(Fault::new(
                "is an address",
                match name.filter(|name| Repo::parse(name, RepoKind::Model).is_some()) {
                    Some(name) => format!("write the repository's name: `base_model: {name}`"),
                    None => "write a repository of the Hugging Face hub as `owner/name`, or \
                             download the base and write its path"
                        .into(),
                },
            ));
        }
    }
    if let Some(repo) = Repo::parse(&written, RepoKind::Model) {
        return Ok(cached(&repo, "")?.to_string_lossy().into_owned());
    }
    let path = absolute(value)?;
    exists(&path, value)?;
    if path.is_dir() {
        let has = |file: &str| path.join(file).is_file();
        if !has("config.json") && !has("model_index.json") {
            if has("adapter_config.json") {
                return Err(Fault::new(
                    "is an adapter, not a base",
                    "write its base here, and `init_from` for the adapter",
                ));
            }
            let gguf = first_with_extension(&path, "gguf");
            return Err(Fault::new(
                format!("is a folder without a config.json: {}", path.display()),
                gguf.map_or_else(
                    || "write the folder that holds the base's config.json, or a .gguf file".into(),
                    |g| format!("did you mean the file {}?", g.display()),
                ),
            ));
        }
    }
    Ok(path.to_string_lossy().into_owned())
}

fn first_with_extension(folder: &Path, extension: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found.into_iter().next()
}

/// The task a base is for, as far as its name and a look at its folder tell.
pub(super) fn task_of(base: &str) -> Option<TaskType> {
    if base.starts_with("builtin:") {
        let image = base == "builtin:tiny-sd";
        return Some(match image {
            true => TaskType::TextToImage,
            false => TaskType::TextGeneration,
        });
    }
    let path = Path::new(base);
    if path.is_dir() {
        if path.join("model_index.json").is_file() {
            return Some(TaskType::TextToImage);
        }
        // Whether it is a language model that can be trained is for the opening of the base to say.
        let described = path.join("config.json").is_file();
        return described.then_some(TaskType::TextGeneration);
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("gguf" | "bin" | "ggml") => Some(TaskType::TextGeneration),
        // One of a language model's own weight files, or an image model in one file.
        Some("safetensors") if path.parent().is_some_and(causal) => Some(TaskType::TextGeneration),
        Some("safetensors" | "ckpt" | "pt" | "pth") => Some(TaskType::TextToImage),
        _ => None,
    }
}

/// Whether the folder's config.json describes a language model.
fn causal(folder: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(folder.join("config.json")) else {
        return false;
    };
    let Ok(config) = serde_json::from_str::<serde_json::Value>(&text) else {
        return false;
    };
    let named = |v: &serde_json::Value| {
        v.as_str()
            .is_some_and(|s| s.ends_with("CausalLM") || s.ends_with("LMHeadModel"))
    };
    match config["architectures"].as_array() {
        Some(list) => list.iter().any(named),
        None => config["model_type"].is_string(),
    }
}

/// `output_dir`: need not exist, but must not be a file.
pub(super) fn output(value: &Value) -> Result<PathBuf, Fault> {
    let path = absolute(value)?;
    match path.ancestors().find(|p| p.exists()) {
        Some(p) if !p.is_dir() => Err(Fault::new(
            format!("cannot be a folder: {} is a file", p.display()),
            "write another folder",
        )),
        _ if path.parent().is_none() => Err(Fault::new(
            "is the root folder",
            "write a folder of the run's own",
        )),
        _ => Ok(path),
    }
}

/// `init_from`: an adapter of any format, or `none`. What kind it is shows when it is opened.
pub(super) fn adapter(value: &Value) -> Result<Option<PathBuf>, Fault> {
    if value.as_str() == Some("none") {
        return Ok(None);
    }
    let path = existing(value)?;
    let is_adapter = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name == "adapter_config.json" || name.ends_with(".gguf") || name.ends_with(".safetensors")
    };
    let holds_one = || {
        let entries = std::fs::read_dir(&path);
        entries.is_ok_and(|entries| entries.flatten().any(|e| is_adapter(&e.file_name())))
    };
    if path.file_name().is_some_and(is_adapter) || holds_one() {
        return Ok(Some(path));
    }
    let peft = path.join("exports/peft");
    Err(Fault::new(
        "is no adapter: neither a PEFT folder (with adapter_config.json) nor a .gguf or \
         .safetensors file",
        if peft.join("adapter_config.json").is_file() {
            format!("write `init_from: {}`", peft.display())
        } else {
            "write a PEFT folder, a checkpoint's folder or a GGUF adapter".into()
        },
    ))
}

/// `chat_template`: the text itself, or a file that holds it, or `auto`.
pub(super) fn template(value: &Value) -> Result<Option<String>, Fault> {
    let written = text(value).map_err(|_| Fault::is_not("a file or a Jinja template"))?;
    let jinja = |t: &str| t.contains("{{") || t.contains("{%");
    if written == "auto" {
        return Ok(None);
    }
    if jinja(&written) {
        return Ok(Some(written));
    }
    if [
        "chatml",
        "llama2",
        "llama3",
        "alpaca",
        "mistral",
        "vicuna",
        "zephyr",
        "tokenizer_default",
    ]
    .contains(&written.as_str())
        && !Path::new(&written).exists()
    {
        return Err(Fault::new(
            "is a name, and loradeck knows no templates by name",
            "remove the line for the base's own template, or write a Jinja file's path",
        ));
    }
    let path = existing(value)?;
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Fault::new(
            format!("cannot be read: {}: {}", path.display(), plain(&e)),
            "write the path of a Jinja template",
        )
    })?;
    if jinja(&text) {
        Ok(Some(text))
    } else {
        Err(Fault::new(
            format!(
                "is no Jinja template: {} holds no `{{{{` and no `{{%`",
                path.display()
            ),
            "write the path of a Jinja template",
        ))
    }
}
