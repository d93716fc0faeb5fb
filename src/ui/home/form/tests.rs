use super::*;

fn advice(value: u64, why: Why) -> Advice<u64> {
    Advice { value, why }
}

fn form() -> Form {
    let mut form = Form::new(
        Lang::English,
        Some("./models/my \"base\".gguf".into()),
        Some("./data/clinic.jsonl".into()),
        Vec::new(),
        Vec::new(),
    );
    form.advise(Ok(Suggestion {
        base: "llama, 135M parameters in Q4_1".into(),
        data: "144 records".into(),
        quantised: true,
        row: Row::Tokens(advice(256, Why::Longest { tokens: 212 })),
        batch_size: advice(
            4,
            Why::Fits {
                bytes: 1 << 30,
                available: 8 << 30,
                more: None,
            },
        ),
        gradient_accumulation_steps: advice(2, Why::StepOf { records: 8 }),
        epochs: advice(5, Why::Records { records: 144 }),
        eval_steps: advice(9, Why::Times { times: 10 }),
        save_steps: advice(9, Why::Times { times: 10 }),
        prompt: Some("It's a \"cough\", is it?".into()),
    }));
    form
}

fn press(form: &mut Form, code: KeyCode) -> Step {
    form.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn the_file_is_yaml_with_a_reason_above_every_key() {
    let text = form().yaml();
    let read: serde_yaml::Mapping = serde_yaml::from_str(&text).unwrap();
    let string = |key: &str| read[key].as_str().unwrap().to_owned();
    assert_eq!(string("base_model"), "./models/my \"base\".gguf");
    assert_eq!(string("train_data_dir"), "./data/clinic.jsonl");
    assert_eq!(string("output_dir"), "./output/clinic");
    assert_eq!(read["sequence_len"], 256);
    assert_eq!(read["batch_size"], 4);
    assert_eq!(
        read["sample_prompts"][0].as_str(),
        Some("It's a \"cough\", is it?")
    );
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if line.contains(": ") && !line.starts_with('#') {
            assert!(lines[i - 1].starts_with("# "), "{line}");
        }
    }
    assert!(text.contains("# the longest record has 212 tokens\nsequence_len: 256\n"));
}

#[test]
fn advice_leaves_alone_what_the_person_has_set() {
    let mut form = form();
    form.place = Place::Field(Field::Batch as usize);
    assert_eq!(press(&mut form, KeyCode::Right), Step::Changed);
    assert_eq!(form.value(Field::Batch), "8");
    let again = form.suggestion.clone().unwrap();
    form.advise(again);
    assert_eq!(form.value(Field::Batch), "8");
    assert_eq!(form.value(Field::Length), "256");
}

#[test]
fn a_new_source_asks_for_new_advice_and_names_the_run_after_the_data() {
    let mut form = form();
    form.place = Place::Field(Field::Data as usize);
    for _ in 0.."clinic.jsonl".len() {
        press(&mut form, KeyCode::Backspace);
    }
    assert_eq!(press(&mut form, KeyCode::Char('x')), Step::Sources);
    assert_eq!(form.value(Field::Output), "./output/x");
    assert_eq!(form.path(), PathBuf::from("configs/x.yaml"));
    assert!(form.suggestion.is_none());
}

#[test]
fn choices_move_to_the_nearest_and_methods_write_their_keys() {
    let mut form = form();
    form.place = Place::Field(Field::Length as usize);
    form.values[Field::Length as usize] = "300".into();
    press(&mut form, KeyCode::Right);
    assert_eq!(form.value(Field::Length), "512");
    form.place = Place::Field(Field::Method as usize);
    press(&mut form, KeyCode::Right);
    press(&mut form, KeyCode::Char('x'));
    assert!(form.yaml().contains("\ntarget_modules: all-linear\n"));
    for _ in 0..9 {
        press(&mut form, KeyCode::Right);
    }
    assert!(form.yaml().contains("\nloraplus_ratio: 16\n"));
}
