//! A byte that flips anywhere in a checkpoint is found, and the checkpoint before is used; in a cache,
//! and it is made again.
//! `LORADECK_FLIPS=100000` flips more of the large files' bytes (the small ones' are all flipped).

mod program;

use std::fs;
use std::path::Path;

use loradeck::random::{Purpose, Stream};
use loradeck::train::checkpoint;
use program::{Scratch, files_below};

const CONFIG: &str = "max_steps: 4\nbatch_size: 2\nlora_rank: 2\nsave_steps: 2\neval_split: 0\n\
    sequence_len: 64\n";

/// Files of at most this size are flipped byte by byte.
const SMALL: usize = 8192;

fn flip(path: &Path, at: usize, mask: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= mask;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_anywhere_in_a_checkpoint_is_found_and_the_one_before_is_used() {
    let flips: usize = std::env::var("LORADECK_FLIPS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200);
    let scratch = Scratch::new(CONFIG);
    assert!(scratch.headless().wait().unwrap().success());
    let folder = scratch.run.join("checkpoints");
    let newest = folder.join("step-000004");
    let files: Vec<String> = fs::read_dir(&newest)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files.len(), 4, "{files:?}");
    let mut stream = Stream::new(7, Purpose::Sampling, 0, 0);
    let mut tried = 0;
    for file in &files {
        let path = newest.join(file);
        let size = fs::metadata(&path).unwrap().len() as usize;
        let places: Vec<usize> = match size <= SMALL {
            true => (0..size).collect(),
            // The header, the end, and evenly over the rest.
            false => (0..flips / 4)
                .chain(size - flips / 4..size)
                .chain((0..flips / 2).map(|i| i * size / (flips / 2)))
                .map(|at| at.min(size - 1))
                .collect(),
        };
        for at in places {
            let mask = 1u8 << stream.below(8);
            flip(&path, at, mask);
            assert!(
                checkpoint::verify(&newest).is_err(),
                "byte {at} of {file} (xor {mask:#x}) was not found"
            );
            flip(&path, at, mask);
            tried += 1;
        }
        // A file that is cut, longer, or gone.
        let bytes = fs::read(&path).unwrap();
        for other in [&bytes[..size - 1], &[&bytes[..], b"\n"].concat()[..], &[]] {
            fs::write(&path, other).unwrap();
            assert!(
                checkpoint::verify(&newest).is_err(),
                "{file} of {} bytes",
                other.len()
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(checkpoint::verify(&newest).is_err(), "{file} is gone");
        fs::write(&path, bytes).unwrap();
    }
    checkpoint::verify(&newest).unwrap();
    println!("{tried} flipped bytes in {} files, all found", files.len());

    // And a run goes on from the one before, and says so.
    flip(&newest.join("optimizer.safetensors"), 5000, 1);
    let found = checkpoint::newest(&folder).unwrap();
    assert_eq!(found.checkpoint.unwrap().state.step, 2);
    let more = fs::read_to_string(&scratch.config).unwrap();
    fs::write(
        &scratch.config,
        more.replace("max_steps: 4", "max_steps: 6"),
    )
    .unwrap();
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    let said = program::text(&out);
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("step-000004 is damaged and was passed over"),
        "{said}"
    );
    assert!(said.contains("resumes after step 2"), "{said}");
}

/// Scans of large data sets are kept by content.
#[test]
fn a_flipped_byte_anywhere_in_a_data_cache_is_found_and_it_is_made_again() {
    let scratch = Scratch::new("");
    let cache = scratch.folder.path().join("cache");
    let config = scratch.large_data();
    let check = || scratch.check_with_cache(&config, &cache);
    let first = check();
    let files = files_below(&cache);
    assert!(!files.is_empty(), "nothing was kept");
    let before: Vec<Vec<u8>> = files.iter().map(|f| fs::read(f).unwrap()).collect();
    let mut stream = Stream::new(8, Purpose::Sampling, 0, 0);
    let rounds = 3;
    for _ in 0..rounds {
        for file in &files {
            let at = stream.below(fs::metadata(file).unwrap().len() as u32) as usize;
            flip(file, at, 1 << stream.below(8));
        }
        assert_eq!(check(), first);
        for (file, bytes) in files.iter().zip(&before) {
            assert!(
                &fs::read(file).unwrap() == bytes,
                "{} stayed",
                file.display()
            );
        }
    }
    println!(
        "{} flipped bytes in {} cached scans, all found and made again",
        rounds * files.len(),
        files.len()
    );
}
