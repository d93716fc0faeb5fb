//! Colours written by people, and colours brought down to what the terminal has.

use ratatui::style::{Color, Modifier, Style};

use super::{ColorDepth, ROLES, Role};

const NAMES: [(&str, Color); 17] = [
    ("default", Color::Reset),
    ("black", Color::Black),
    ("red", Color::Red),
    ("green", Color::Green),
    ("yellow", Color::Yellow),
    ("blue", Color::Blue),
    ("magenta", Color::Magenta),
    ("cyan", Color::Cyan),
    ("white", Color::Gray),
    ("gray", Color::DarkGray),
    ("bright-red", Color::LightRed),
    ("bright-green", Color::LightGreen),
    ("bright-yellow", Color::LightYellow),
    ("bright-blue", Color::LightBlue),
    ("bright-magenta", Color::LightMagenta),
    ("bright-cyan", Color::LightCyan),
    ("bright-white", Color::White),
];

const MODIFIERS: [(&str, Modifier); 5] = [
    ("bold", Modifier::BOLD),
    ("dim", Modifier::DIM),
    ("italic", Modifier::ITALIC),
    ("underline", Modifier::UNDERLINED),
    ("reverse", Modifier::REVERSED),
];

/// Reads `[COLOUR|ROLE] [on COLOUR] [bold] [dim] [italic] [underline] [reverse]`; a colour is
/// `#rrggbb`, a number of xterm's 256, or a name. A role is one whose style is built upon.
///
/// # Errors
/// What is wrong, as the rest of a sentence.
pub fn parse_style(text: &str) -> Result<(Option<Role>, Style), String> {
    let mut style = Style::new();
    let mut from = None;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if word == "on" {
            let color = words
                .next()
                .ok_or_else(|| format!("\"{text}\" ends with \"on\": name the background"))?;
            style = style.bg(parse_color(color)?);
        } else if let Some((_, modifier)) = MODIFIERS.iter().find(|(n, _)| *n == word) {
            style = style.add_modifier(*modifier);
        } else if style.fg.is_none() && from.is_none() {
            match ROLES.iter().find(|(_, name)| *name == word) {
                Some((role, _)) => from = Some(*role),
                None => style = style.fg(parse_color(word)?),
            }
        } else {
            return Err(format!(
                "\"{word}\" is neither \"on\" nor one of bold, dim, italic, underline, reverse"
            ));
        }
    }
    Ok((from, style))
}

fn parse_color(word: &str) -> Result<Color, String> {
    if let Some(hex) = word.strip_prefix('#') {
        return (hex.len() == 6 && hex.is_ascii())
            .then(|| u32::from_str_radix(hex, 16).ok())
            .flatten()
            .map(|n| Color::Rgb((n >> 16) as u8, (n >> 8) as u8, n as u8))
            .ok_or_else(|| format!("\"{word}\" is not a colour: write #rrggbb, such as #7aa2f7"));
    }
    if let Ok(number) = word.parse::<u32>() {
        return u8::try_from(number)
            .map(Color::Indexed)
            .map_err(|_| format!("colour {number} does not exist: numbers go from 0 to 255"));
    }
    if let Some((_, color)) = NAMES.iter().find(|(n, _)| *n == word) {
        return Ok(*color);
    }
    let near = NAMES
        .iter()
        .map(|(name, _)| (strsim::damerau_levenshtein(name, word), *name))
        .min();
    Err(match near {
        Some((distance, name)) if distance <= 2 => {
            format!("\"{word}\" is not a colour: did you mean {name}?")
        }
        _ => format!("\"{word}\" is not a colour: write #rrggbb, 0 to 255, or a name such as cyan"),
    })
}

/// The nearest colour that the terminal has.
pub fn quantise(color: Color, depth: ColorDepth) -> Color {
    match (color, depth) {
        (_, ColorDepth::None) => Color::Reset,
        (_, ColorDepth::True) => color,
        (Color::Rgb(r, g, b), ColorDepth::Indexed) => Color::Indexed(nearest_indexed(r, g, b)),
        (Color::Rgb(r, g, b), ColorDepth::Ansi) => nearest_ansi(r, g, b),
        (Color::Indexed(i), ColorDepth::Ansi) => {
            let (r, g, b) = indexed_to_rgb(i);
            nearest_ansi(r, g, b)
        }
        _ => color,
    }
}

/// Levels of a channel in xterm's 6x6x6 cube.
const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

fn indexed_to_rgb(index: u8) -> (u8, u8, u8) {
    match index {
        0..16 => {
            let bright = if index < 8 { 170 } else { 255 };
            let channel = |bit: u8| if index & bit != 0 { bright } else { 0 };
            (channel(1), channel(2), channel(4))
        }
        16..232 => {
            let i = usize::from(index - 16);
            (CUBE[i / 36], CUBE[i / 6 % 6], CUBE[i % 6])
        }
        _ => {
            let level = 8 + 10 * (index - 232);
            (level, level, level)
        }
    }
}

fn nearest_indexed(r: u8, g: u8, b: u8) -> u8 {
    // The first sixteen depend on the user's palette and are left alone.
    (16..=255u8)
        .min_by_key(|&i| {
            let (ir, ig, ib) = indexed_to_rgb(i);
            let d = |a: u8, b: u8| (i32::from(a) - i32::from(b)).pow(2);
            2 * d(r, ir) + 4 * d(g, ig) + 3 * d(b, ib)
        })
        .unwrap_or(7)
}

/// By hue rather than by distance: a dark grey must stay visible and a soft red stay red.
fn nearest_ansi(r: u8, g: u8, b: u8) -> Color {
    let [rf, gf, bf] = [r, g, b].map(|c| f32::from(c) / 255.0);
    let max = rf.max(gf).max(bf);
    let min = rf.min(gf).min(bf);
    let lightness = (max + min) / 2.0;
    let chroma = max - min;
    if chroma < 0.22 {
        return match lightness {
            l if l < 0.08 => Color::Black,
            l if l < 0.55 => Color::DarkGray,
            l if l < 0.88 => Color::Gray,
            _ => Color::White,
        };
    }
    let hue = if max == rf {
        60.0 * ((gf - bf) / chroma).rem_euclid(6.0)
    } else if max == gf {
        60.0 * ((bf - rf) / chroma + 2.0)
    } else {
        60.0 * ((rf - gf) / chroma + 4.0)
    };
    let bright = max > 0.75;
    match (hue, bright) {
        (h, true) if !(20.0..345.0).contains(&h) => Color::LightRed,
        (h, false) if !(20.0..345.0).contains(&h) => Color::Red,
        (h, true) if h < 70.0 => Color::LightYellow,
        (h, false) if h < 70.0 => Color::Yellow,
        (h, true) if h < 165.0 => Color::LightGreen,
        (h, false) if h < 165.0 => Color::Green,
        (h, true) if h < 205.0 => Color::LightCyan,
        (h, false) if h < 205.0 => Color::Cyan,
        (h, true) if h < 260.0 => Color::LightBlue,
        (h, false) if h < 260.0 => Color::Blue,
        (_, true) => Color::LightMagenta,
        (_, false) => Color::Magenta,
    }
}

/// Red, green and blue from 0 to 1, without gamma.
#[cfg(test)]
fn linear(color: Color) -> [f64; 3] {
    let (r, g, b) = match color {
        Color::Rgb(r, g, b) => (r, g, b),
        Color::Indexed(i) => indexed_to_rgb(i),
        Color::White => (255, 255, 255),
        _ => (0, 0, 0),
    };
    [r, g, b].map(|c| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    })
}

/// WCAG 2's contrast ratio, from 1 to 21.
#[cfg(test)]
pub fn contrast(a: Color, b: Color) -> f64 {
    let luminance = |c| {
        let [r, g, b] = linear(c);
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub enum Vision {
    Full,
    Protanopia,
    Deuteranopia,
    Tritanopia,
}

#[cfg(test)]
impl Vision {
    pub const ALL: [Vision; 4] = [
        Vision::Full,
        Vision::Protanopia,
        Vision::Deuteranopia,
        Vision::Tritanopia,
    ];

    /// Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
    fn matrix(self) -> [[f64; 3]; 3] {
        match self {
            Vision::Full => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            Vision::Protanopia => [
                [0.152_286, 1.052_583, -0.204_868],
                [0.114_503, 0.786_281, 0.099_216],
                [-0.003_882, -0.048_116, 1.051_998],
            ],
            Vision::Deuteranopia => [
                [0.367_322, 0.860_646, -0.227_968],
                [0.280_085, 0.672_501, 0.047_413],
                [-0.011_820, 0.042_940, 0.968_881],
            ],
            Vision::Tritanopia => [
                [1.255_528, -0.076_749, -0.178_779],
                [-0.078_411, 0.930_809, 0.147_602],
                [0.004_733, 0.691_367, 0.303_900],
            ],
        }
    }
}

/// CIE 1976's distance in L*a*b*, as someone of that vision sees it.
#[cfg(test)]
pub fn difference(a: Color, b: Color, vision: Vision) -> f64 {
    let lab = |color| {
        let rgb = linear(color);
        let seen = vision
            .matrix()
            .map(|row| (0..3).map(|i| row[i] * rgb[i]).sum::<f64>().clamp(0.0, 1.0));
        // sRGB to XYZ, D65.
        let xyz = [
            [0.4124 / 0.9505, 0.3576 / 0.9505, 0.1805 / 0.9505],
            [0.2126, 0.7152, 0.0722],
            [0.0193 / 1.089, 0.1192 / 1.089, 0.9505 / 1.089],
        ]
        .map(|row| {
            let v: f64 = (0..3).map(|i| row[i] * seen[i]).sum();
            if v > 0.008_856 {
                v.cbrt()
            } else {
                7.787 * v + 16.0 / 116.0
            }
        });
        let [x, y, z] = xyz;
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    };
    let (a, b) = (lab(a), lab(b));
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_is_read_as_it_is_spoken() {
        assert_eq!(
            parse_style("#7aa2f7 on black bold").unwrap().1,
            Style::new()
                .fg(Color::Rgb(0x7a, 0xa2, 0xf7))
                .bg(Color::Black)
                .add_modifier(Modifier::BOLD)
        );
        assert_eq!(
            parse_style("208").unwrap().1,
            Style::new().fg(Color::Indexed(208))
        );
        assert_eq!(parse_style("").unwrap(), (None, Style::new()));
        let bold = Style::new().add_modifier(Modifier::BOLD);
        assert_eq!(
            parse_style("accent bold").unwrap(),
            (Some(Role::Accent), bold)
        );
    }

    #[test]
    fn a_wrong_style_is_told_with_its_mend() {
        for (text, part) in [
            ("#12345", "write #rrggbb"),
            ("#ééé", "write #rrggbb"),
            ("300", "0 to 255"),
            ("cyann", "did you mean cyan?"),
            ("turquoise", "a name such as cyan"),
            ("red on", "name the background"),
            ("red blue", "neither"),
        ] {
            let error = parse_style(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn colours_keep_their_character_with_fewer_to_choose_from() {
        let ansi = |r, g, b| quantise(Color::Rgb(r, g, b), ColorDepth::Ansi);
        assert_eq!(ansi(0x3b, 0x42, 0x61), Color::DarkGray);
        assert_eq!(ansi(0xf7, 0x76, 0x8e), Color::LightRed);
        assert_eq!(ansi(0x9e, 0xce, 0x6a), Color::LightGreen);
        assert_eq!(ansi(0xd7, 0xdc, 0xe5), Color::Gray);
        let indexed = |r, g, b| quantise(Color::Rgb(r, g, b), ColorDepth::Indexed);
        assert_eq!(indexed(255, 0, 0), Color::Indexed(196));
        assert_eq!(indexed(8, 8, 8), Color::Indexed(232));
        assert_eq!(
            quantise(Color::Indexed(196), ColorDepth::Ansi),
            Color::LightRed
        );
        assert_eq!(quantise(Color::Red, ColorDepth::None), Color::Reset);
    }
}
