//! The command line's arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Fine-tunes LoRA adapters from one YAML file; watch and steer the run from a terminal.
#[derive(Debug, Parser)]
#[command(
    version,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<CommandLine>,
    /// Without a subcommand: home.
    #[command(flatten)]
    pub home: HomeArgs,
}

#[derive(Debug, Subcommand)]
pub enum CommandLine {
    /// Home: the runs, the configs, the queue (the default)
    Home(HomeArgs),
    /// Write the config of a new run with a guided form
    New(NewArgs),
    /// Run configs one after another
    Queue(QueueArgs),
    /// Start a run (or resume it) and attach the deck
    Train(TrainArgs),
    /// Open the deck on a run, here or on another machine
    Attach(AttachArgs),
    /// Play a run's events once more in the deck
    Replay(ReplayArgs),
    /// Print where a run stands
    Status(StatusArgs),
    /// Send a command to a run
    Send(SendArgs),
    /// Check a config and its data before anything is trained
    Check(CheckArgs),
    /// Measure a config's training: tokens/s, memory, and where the time goes
    Bench(BenchArgs),
    /// Write an adapter in another tool's format
    Export(ExportArgs),
    /// Write captions for a folder of images
    Label(LabelArgs),
    /// Fetch a base, a captioning model or a dataset from the Hugging Face hub
    Fetch(FetchArgs),
    /// Print what an adapter is, and what is wrong with it
    Inspect(InspectArgs),
    /// Merge adapters into a base
    Merge(MergeArgs),
    /// Make one adapter of several
    Combine(CombineArgs),
    /// Generate text from a base with an adapter
    Generate(GenerateArgs),
    /// Talk with a base and adapters
    Chat(ChatArgs),
    /// What this machine and this terminal can do
    Doctor(DoctorArgs),
    /// The process that works through a queue; started by `queue` and by home
    #[command(hide = true)]
    QueueWorker(QueueWorkerArgs),
    /// The runner process itself; started by `train`
    #[command(hide = true)]
    Runner(RunnerArgs),
    /// A run over stdin and stdout; started by `attach ssh://...` on the other machine
    #[command(hide = true)]
    Bridge(BridgeArgs),
}

/// How the deck looks.
#[derive(Clone, Debug, Default, Args)]
pub struct LookArgs {
    /// The deck's theme: a name or a YAML file
    #[arg(long, value_name = "THEME")]
    pub theme: Option<String>,
    /// The deck's language (default: the locale's, else English)
    #[arg(long, value_name = "en|zh", value_parser = ["en", "zh"])]
    pub lang: Option<String>,
    /// Your own keys: a YAML file (default: loradeck/keymap.yaml in the config folder)
    #[arg(long, value_name = "FILE")]
    pub keymap: Option<PathBuf>,
    /// Ring the terminal's bell at alerts and at the end
    #[arg(long)]
    pub bell: bool,
}

#[derive(Debug, Args)]
pub struct HomeArgs {
    /// The folder that the runs lie in
    #[arg(long, value_name = "DIR", default_value = "output")]
    pub runs: PathBuf,
    #[command(flatten)]
    pub look: LookArgs,
}

#[derive(Debug, Args)]
pub struct NewArgs {
    /// The base: a Hugging Face folder, a GGUF file or builtin:tiny-llama
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,
    /// The training data: a file or a folder
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Write what is suggested, without the form
    #[arg(long)]
    pub yes: bool,
    /// Where to write (default: configs/ and the data's name; -: stdout); with --yes
    #[arg(long, value_name = "FILE", requires = "yes")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub look: LookArgs,
}

#[derive(Debug, Args)]
pub struct QueueArgs {
    /// YAML files, in the order of their turns; none: go on with what waits
    #[arg(value_name = "CONFIG")]
    pub configs: Vec<PathBuf>,
    /// Set a config key of all of them, over the file's value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// The folder of runs that the queue belongs to
    #[arg(long, value_name = "DIR", default_value = "output")]
    pub runs: PathBuf,
    /// Return at once; the queue goes on by itself
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub look: LookArgs,
}

#[derive(Debug, Args)]
pub struct QueueWorkerArgs {
    /// The folder of runs
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The YAML file
    #[arg(value_name = "CONFIG", required_unless_present = "config_option")]
    pub config: Option<PathBuf>,
    /// The YAML file, as an option
    #[arg(long = "config", value_name = "CONFIG", conflicts_with = "config")]
    pub config_option: Option<PathBuf>,
    /// Set a config key, over the file's value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Return as soon as the run answers; it goes on by itself
    #[arg(long, conflicts_with = "headless")]
    pub detach: bool,
    /// Stay in the foreground with plain progress lines (the default without a terminal)
    #[arg(long)]
    pub headless: bool,
    /// auto: go on where the run stopped; never: rename the old folder and start anew; or a
    /// checkpoint's folder
    #[arg(long, value_name = "auto|never|CKPT", default_value = "auto")]
    pub resume: String,
    #[command(flatten)]
    pub look: LookArgs,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The run's folder, or ssh://[user@]host[:port]/path/to/run (default: the newest run under
    /// ./output)
    pub run: Option<String>,
    /// Watch only
    #[arg(long)]
    pub readonly: bool,
    /// loradeck on the other machine: its name or path there
    #[arg(long, value_name = "PATH", default_value = "loradeck")]
    pub remote_program: String,
    #[command(flatten)]
    pub look: LookArgs,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The run's folder (default: the newest run under ./output)
    pub run: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SendArgs {
    /// The run's folder
    pub run: PathBuf,
    /// What to do
    #[arg(value_enum)]
    pub action: SendAction,
    /// For `set`: key=value; for `sample`: a prompt; for `stop`: save (default) or discard
    pub argument: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SendAction {
    Pause,
    Resume,
    Checkpoint,
    Export,
    Sample,
    Eval,
    Stop,
    Set,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The YAML file
    pub config: PathBuf,
    /// Set a config key, over the file's value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Also prove the pipeline: two steps, save, resume, sample, export, in a scratch folder
    #[arg(long = "try")]
    pub try_run: bool,
    /// First open the deck on the data, to look it through and edit captions, before any run
    #[arg(long, conflicts_with = "json")]
    pub edit: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub look: LookArgs,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The YAML file
    pub config: PathBuf,
    /// Set a config key, over the file's value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Steps that are measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Steps before them that are not
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub warmup: u64,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A run's folder (its newest checkpoint is taken), a checkpoint's, or an adapter of any format
    pub source: PathBuf,
    /// Formats, separated by commas: peft, gguf (language models), diffusers, kohya (image models)
    #[arg(long, value_name = "FORMAT", default_value = "peft")]
    pub format: String,
    /// Where to write: a folder, or a file for the formats of one file (default:
    /// exports/<format>-step-N in the run's folder)
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Type of the numbers: bf16, f16 or f32 (default: as they are)
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// The base, where the adapter's file does not tell what the format needs: between peft and gguf
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LabelWay {
    Csv,
    Jsonl,
    Txt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EarlyStop {
    Yes,
    No,
    Never,
}

#[derive(Debug, Args)]
pub struct LabelArgs {
    /// The folder of images
    #[arg(long, value_name = "DIR")]
    pub input: PathBuf,
    /// The table of captions, .csv or .jsonl; with --format txt the folder of the .txt files (default:
    /// beside the images)
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// A BLIP or CLIP folder, or such a repository of the Hugging Face hub (default:
    /// Salesforce/blip-image-captioning-base)
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// How to write (default: by the output's name)
    #[arg(long, value_enum, value_name = "csv|jsonl|txt")]
    pub format: Option<LabelWay>,
    /// A trigger word or phrase before every caption
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Write captions anew where there are some
    #[arg(long)]
    pub overwrite: bool,
    /// Images that are looked at together
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub batch_size: usize,
    /// Beams of the search; 1: greedy (BLIP)
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    pub beams: usize,
    /// Tokens of a caption at most (BLIP)
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// Tokens of a caption at least (BLIP)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_tokens: usize,
    /// Above 0: longer captions win more often, below 0 shorter ones (BLIP, with beams)
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub length_penalty: f64,
    /// When a search with beams stops: with as many captions as beams; when no better one is likely;
    /// when none can come
    #[arg(long, value_enum, value_name = "yes|no|never", default_value = "no")]
    pub early_stopping: EarlyStop,
    /// Above 1: what was said becomes less likely (BLIP)
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// No run of so many tokens comes twice; 0: any may (BLIP)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub no_repeat_ngram: usize,
    /// Words that every caption begins with, which the model goes on from (BLIP)
    #[arg(long, value_name = "TEXT")]
    pub begin: Option<String>,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
}

fn at_least_one(written: &str) -> Result<usize, String> {
    match written.parse() {
        Ok(0) | Err(_) => Err("it must be a whole number above 0".to_owned()),
        Ok(number) => Ok(number),
    }
}

#[derive(Debug, Args)]
pub struct FetchArgs {
    /// owner/name, owner/name@revision, or a file in it: owner/name/file.gguf
    #[arg(value_name = "REPO", required = true)]
    pub repos: Vec<String>,
    /// They are datasets
    #[arg(long, conflicts_with = "captions")]
    pub data: bool,
    /// They are models that write captions (BLIP, CLIP), for `loradeck label`
    #[arg(long)]
    pub captions: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// An adapter of any format, a checkpoint or a run
    pub adapter: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// The base: a Hugging Face or diffusers folder, a GGUF file, or a Stable Diffusion checkpoint
    /// (.safetensors)
    #[arg(long, value_name = "BASE")]
    pub base: String,
    /// An adapter of any format, a checkpoint or a run, with an optional strength: A:0.8
    #[arg(long, value_name = "ADAPTER[:WEIGHT]", required = true)]
    pub lora: Vec<String>,
    /// Where to write the merged base: a folder, or a file like the base
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// Type of the merged tensors in a GGUF: f16, q8_0, bf16 or f32 (default: their own where it is
    /// a plain one, q8_0 where they are quantised)
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
}

#[derive(Debug, Args)]
pub struct CombineArgs {
    /// An adapter of any format, a checkpoint or a run, with an optional strength: A:0.8
    #[arg(long, value_name = "ADAPTER[:WEIGHT]", required = true)]
    pub lora: Vec<String>,
    /// Where to write: a folder, or a file for the formats of one file
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// Bring the result to this rank, by SVD (default: the ranks add up and nothing is lost)
    #[arg(long)]
    pub rank: Option<usize>,
    /// The result's format (default: the first adapter's)
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Type of the numbers: bf16, f16 or f32 (default: the adapters' own where nothing is rounded)
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// The base, where the format needs it: between peft and gguf
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,
}

/// How the next token is chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Tokens of a reply at most
    #[arg(long, default_value_t = 128)]
    pub max_tokens: usize,
    /// 0 is greedy: always the likeliest token
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Only so many of the likeliest tokens; 0: no limit
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Above 1: what was said becomes less likely
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f64,
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The base: a Hugging Face folder, a GGUF or GGML (ggjt v3) file, a Stable Diffusion checkpoint
    /// or diffusers folder, builtin:tiny-llama or builtin:tiny-sd
    #[arg(long, value_name = "BASE")]
    pub base: String,
    /// An adapter of any format, a checkpoint or a run, with an optional strength (A:0.8); several
    /// act together
    #[arg(long, value_name = "ADAPTER[:WEIGHT]")]
    pub lora: Vec<String>,
    /// The user's message, which runs through the chat template; for an image base what to draw, in
    /// the syntax of sample_prompts too (`a fox --n blurry --w 512 --h 512 --d 7 --s 20 --l 7.5`)
    #[arg(long)]
    pub prompt: String,
    /// Take the prompt as it is, without a chat template
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Write the prompt's token ids and logits to this safetensors file (`input_ids` [T], `logits`
    /// [T, V]) and generate nothing
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    #[command(flatten)]
    pub drawing: DrawingArgs,
}

/// What `generate` draws with an image base.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image bases")]
pub struct DrawingArgs {
    /// The PNG to write; several pictures are numbered
    #[arg(long, value_name = "FILE", default_value = "picture.png")]
    pub output: PathBuf,
    /// How many pictures, with seeds one after another
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub count: u64,
    /// What must not be in the picture
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,
    /// Pixels (default: what the base was made for)
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Pixels (default: what the base was made for)
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub steps: usize,
    /// Weight of the prompt against the negative one
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    pub scale: f64,
    /// ddim, dpm++_2m or euler_a
    #[arg(long, value_name = "NAME", default_value = "dpm++_2m")]
    pub sampler: String,
}

#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The base: a Hugging Face folder, a GGUF file or builtin:tiny-llama
    #[arg(long, value_name = "BASE")]
    pub base: String,
    /// An adapter of any format, a checkpoint or a run, with an optional strength (A:0.8); several
    /// act together
    #[arg(long, value_name = "ADAPTER[:WEIGHT]")]
    pub lora: Vec<String>,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, Args)]
pub struct RunnerArgs {
    /// The request `train` wrote: a JSON file in the run's folder
    pub request: PathBuf,
}

#[derive(Debug, Args)]
pub struct BridgeArgs {
    /// The run's folder
    pub run: PathBuf,
    /// The last event that the other side knows
    #[arg(long, value_name = "SEQ@FIRST_STARTED")]
    pub since: Option<String>,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The run's folder (default: the newest run under ./output)
    pub run: Option<PathBuf>,
    /// Seconds of the run that pass in one second
    #[arg(long, value_name = "TIMES", default_value_t = 60.0)]
    pub speed: f64,
    #[command(flatten)]
    pub look: LookArgs,
}
