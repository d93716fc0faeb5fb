//! A folder of bad configs. Each says in `# expect:` lines, in order, what is reported of it:
//! `LINE:COLUMN: message; fix`.

use std::path::Path;

use loradeck::config;

fn reported(path: &Path) -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    match config::load(path, &[]) {
        Ok(_) => vec!["no problem".into()],
        Err(problems) => problems
            .iter()
            .map(|p| {
                let line = p.to_string();
                let start = format!("{}:", path.display());
                let line = line.strip_prefix(&start).unwrap_or(&line);
                line.trim_start().replace(root, "ROOT")
            })
            .collect(),
    }
}

fn expected(path: &Path) -> Vec<String> {
    // What is not UTF-8 has its expectations beside it.
    let beside = path.with_extension("expect");
    let bytes = std::fs::read(if beside.exists() { &beside } else { path }).unwrap();
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter_map(|l| l.strip_prefix("# expect: ").map(str::to_owned))
        .collect()
}

#[test]
fn every_bad_config_gets_the_sentences_written_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs/bad");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() > 30, "{}", folder.display());
    let mut wrong = String::new();
    for path in paths {
        let (reported, expected) = (reported(&path), expected(&path));
        if reported != expected {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            wrong += &format!(
                "\n{name} reports:\n# expect: {}\n",
                reported.join("\n# expect: ")
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
