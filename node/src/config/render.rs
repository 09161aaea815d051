//! A configuration as TOML.

use std::fmt::Write;

use super::load::Loaded;
use super::schema::{Config, KEYS, SECTIONS};

/// Every key with its default, commented out, under what it means and what is allowed: a file to
/// start from.
#[must_use]
pub fn default_file() -> String {
    let config = Config::default();
    let mut out = String::from(
        "# ironring configuration. Every key is shown with its default; sizes take B, KiB, MiB,\n\
         # GiB, TiB. Flags override the environment (IRONRING__SECTION__KEY), which overrides this\n\
         # file, which overrides the defaults.\n",
    );
    for section in SECTIONS {
        out.push('\n');
        comment(&mut out, section.doc);
        put(&mut out, format_args!("[{}]\n", section.name));
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            comment(&mut out, key.doc);
            comment(&mut out, &format!("Allowed: {}.", key.allowed()));
            put(&mut out, format_args!("#{} = {}\n", key.name, key.value(&config)));
        }
    }
    out
}

/// Every key with its value, and where it came from when `origins` is set. The text is a
/// configuration file that gives the same configuration.
#[must_use]
pub fn effective_file(loaded: &Loaded, origins: bool) -> String {
    let mut out = String::new();
    for (index, section) in SECTIONS.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        put(&mut out, format_args!("[{}]\n", section.name));
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let line = format!("{} = {}", key.name, key.value(&loaded.config));
            if origins {
                put(&mut out, format_args!("{line:<40} # {}\n", loaded.origin(key)));
            } else {
                put(&mut out, format_args!("{line}\n"));
            }
        }
    }
    out
}

fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        put(out, format_args!("# {}\n", line.trim()));
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}
