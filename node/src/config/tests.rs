//! Messages, places, suggestions and precedence, word for word.

use std::path::PathBuf;

use super::render::{default_file, effective_file};
use super::size::MIB;
use super::*;

/// A file in a directory that goes away with it, and the sources that read it.
struct Case {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new(text: &str) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        let sources = Sources { file: Some(path), ..Sources::default() };
        Case { dir, sources }
    }

    fn variable(mut self, name: &str, value: &str) -> Case {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Case {
        let (flag, key, value) = (flag.to_owned(), key.to_owned(), value.to_owned());
        self.sources.flags.push(Setting { flag, key, value });
        self
    }

    fn load(&self) -> Loaded {
        self.sources.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Each problem as `message | hint`, with the directory cut off.
    fn problems(&self) -> Vec<String> {
        let error = self.sources.load().expect_err("the configuration is wrong");
        let dir = format!("{}/", self.dir.path().display());
        let show = |problem: &Problem| match &problem.hint {
            Some(hint) => format!("{problem} | {hint}").replace(&dir, ""),
            None => problem.to_string().replace(&dir, ""),
        };
        error.problems.iter().map(show).collect()
    }
}

#[test]
fn nothing_gives_the_defaults() {
    let loaded = Sources::default().load().unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.log.segment_bytes, 64 * MIB);
    assert!(KEYS.iter().all(|key| loaded.origin(key) == &Origin::Default));
}

#[test]
fn every_default_is_within_its_own_bounds() {
    for key in KEYS {
        let mut config = Config::default();
        let literal = key.value(&config);
        let value = toml::de::DeValue::parse(&literal).expect("a value renders as TOML");
        let read = (key.set)(&mut config, kind::Input::Toml(value.get_ref()));
        assert_eq!(read, Ok(()), "{} = {literal}", key.path());
        assert_eq!(config, Config::default(), "{} changed", key.path());
    }
    assert_eq!(Config::default().conflicts(), []);
    assert_eq!(Config::default().warnings(), Vec::<String>::new());
}

#[test]
fn a_controller_that_is_too_impatient_is_refused() {
    let case = Case::new(concat!(
        "[metadata]\nheartbeat_interval_ms = 120\n",
        "[controller]\nleader_timeout_ms = 300\nsession_timeout_ms = 300\n",
    ));
    assert_eq!(
        case.problems(),
        [
            "node.toml:4:21: controller.leader_timeout_ms is 300, less than three times metadata.heartbeat_interval_ms (120): nodes that are well would lose their leaderships | use at least 360",
            "node.toml:5:22: controller.session_timeout_ms is 300, no more than controller.leader_timeout_ms (300) | a node loses its leaderships first and is dead later",
        ]
    );
    let mut config = Config::default();
    config.controller.moves_max = 3;
    config.controller.rebalance_grace_s = 7;
    let settings = config.controller_settings();
    assert_eq!((settings.moves_max, settings.rebalance_grace.as_secs()), (3, 7));
}

#[test]
fn a_syntax_error_has_line_and_column() {
    let case = Case::new("[node]\nname = \"a\"\nshards = = 2\n");
    assert_eq!(case.problems(), ["node.toml:3:10: not TOML: extra `=`, expected nothing"]);
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    let case = Case::new("[log]\nsegmnt_bytes = 1\n\n[limits]\n  deadline-max-ms = 1\n");
    assert_eq!(
        case.problems(),
        [
            "node.toml:2:1: unknown key \"segmnt_bytes\" in [log] | did you mean \"segment_bytes\"?",
            "node.toml:5:3: unknown key \"deadline-max-ms\" in [limits] | did you mean \"deadline_max_ms\"?",
        ]
    );
}

#[test]
fn a_key_in_the_wrong_place_is_sent_to_the_right_one() {
    let case =
        Case::new("data_dir = \"/d\"\n[node]\nsegment_bytes = 1\nblah = 2\n[nodes]\n[zzz]\n");
    assert_eq!(
        case.problems(),
        [
            "node.toml:1:1: unknown key \"data_dir\" outside of any section | data_dir belongs under [node]",
            "node.toml:3:1: unknown key \"segment_bytes\" in [node] | segment_bytes belongs under [log]",
            "node.toml:4:1: unknown key \"blah\" in [node] | the keys of [node] are name, data_dir, shards, cpus, rack, region, weight, role",
            "node.toml:5:2: unknown section [nodes] | did you mean [node]?",
            "node.toml:6:2: unknown section [zzz] | the sections are [node], [cluster], [listen], [log], [repair], [metadata], [controller], [movement], [peers], [memory], [limits], [driver], [trace]",
        ]
    );
}

#[test]
fn a_section_written_as_a_key_is_explained() {
    let case = Case::new("log = 3\n");
    assert_eq!(
        case.problems(),
        [
            "node.toml:1:1: [log] is a section, not a key | write [log] on a line of its own, and its keys below it"
        ]
    );
}

#[test]
fn a_node_is_not_called_by_a_number_and_a_cluster_may_be() {
    let case = Case::new("[node]\nname = \"12\"\n[cluster]\nname = \"12\"\n");
    assert_eq!(
        case.problems(),
        [
            "node.toml:2:8: node.name is \"12\"; a node's name is not of digits only: ids are | allowed: 1 to 64 lower-case letters, digits, `.`, `_`, `-`, not digits only"
        ]
    );
}

#[test]
fn values_out_of_bounds_or_of_the_wrong_type_name_key_place_and_limit() {
    let case = Case::new(concat!(
        "[node]\nname = \"Node 1\"\nshards = 70000\ncpus = [0, 1, 0]\n",
        "[listen]\nclients = \"localhost:7411\"\n",
        "[log]\nsegment_bytes = \"1KiB\"\ndisk_bytes_max = \"9 parsecs\"\ncompaction_dead_share = 2\n",
        "[limits]\nin_flight_max = true\n",
        "[trace]\nlevel = \"loud\"\n",
    ));
    assert_eq!(
        case.problems(),
        [
            "node.toml:2:8: node.name is \"Node 1\"; a name is 1 to 64 lower-case letters, digits, '.', '_' or '-', and begins with a letter or digit | allowed: 1 to 64 lower-case letters, digits, `.`, `_`, `-`, not digits only",
            "node.toml:3:10: node.shards is 70000; the largest allowed is 1024 | allowed: 0 (one per CPU the process may use), or a whole number from 1 to 1024",
            "node.toml:4:8: node.cpus names CPU 0 twice | allowed: a list of CPU numbers; empty for any",
            "node.toml:6:11: listen.clients is \"localhost:7411\", which is not IP:PORT such as \"127.0.0.1:7411\" or \"[::1]:7411\" | allowed: `IP:PORT`",
            "node.toml:8:17: log.segment_bytes is 1KiB; the smallest allowed is 4MiB | allowed: a size from 4MiB to 1GiB",
            "node.toml:9:18: log.disk_bytes_max is wrong: \"9 parsecs\" is not a size: the unit \"parsecs\" is not one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB | allowed: 0 (the size of the file system less a tenth), or a size from 64MiB to 1024TiB",
            "node.toml:10:25: log.compaction_dead_share is 2; the largest allowed is 0.95 | allowed: a share from 0.1 to 0.95",
            "node.toml:12:17: limits.in_flight_max must be a whole number, found the boolean true | allowed: a whole number from 1 to 65536",
            "node.toml:14:9: trace.level must be one of error, warn, info, debug, trace, found the string \"loud\" | allowed: `error`, `warn`, `info`, `debug`, `trace`",
        ]
    );
}

#[test]
fn columns_count_characters_not_bytes() {
    let case = Case::new("[node]\ndata_dir = \"/données\"\nname = \"é\" # é\n\"ñé\" = 1\n");
    let problems = case.problems();
    assert!(problems[0].starts_with("node.toml:3:8: node.name"), "{problems:?}");
    assert!(problems[1].starts_with("node.toml:4:1: unknown key \"ñé\""), "{problems:?}");
}

#[test]
fn flags_override_variables_override_the_file() {
    let case = Case::new("[node]\nname = \"from-file\"\nshards = 3\n[log]\nreserve_segments = 5\n")
        .variable("IRONRING__NODE__NAME", "from-env")
        .variable("IRONRING__LOG__RESERVE_SEGMENTS", "6")
        .variable("IRONRING__NODE__CPUS", "0-2,5")
        .variable("PATH", "/bin")
        .flag("--set", "log.reserve_segments", "7")
        .flag("--set", "log.segment_bytes", "8MiB");
    let loaded = case.load();
    let config = &loaded.config;
    assert_eq!(config.node.name, "from-env");
    assert_eq!(config.node.shards, 3);
    assert_eq!(config.node.cpus, [0, 1, 2, 5]);
    assert_eq!(config.log.reserve_segments, 7);
    assert_eq!(config.log.segment_bytes, 8 * MIB);
    let origin = |path: &str| {
        let key = KEYS.iter().find(|key| key.path() == path).unwrap();
        loaded.origin(key).to_string().replace(&format!("{}/", case.dir.path().display()), "")
    };
    assert_eq!(origin("node.name"), "IRONRING__NODE__NAME");
    assert_eq!(origin("node.shards"), "node.toml:3:10");
    assert_eq!(origin("log.reserve_segments"), "--set");
    assert_eq!(origin("log.checkpoint_interval_bytes"), "default");
}

#[test]
fn a_mistake_in_the_file_is_found_even_when_overridden() {
    let case = Case::new("[node]\nshards = \"many\"\n").variable("IRONRING__NODE__SHARDS", "2");
    assert_eq!(case.problems().len(), 1);
}

#[test]
fn variables_and_flags_that_name_no_key_are_refused() {
    let case = Case::new("")
        .variable("IRONRING__LOG__SEGMENT_BYTE", "8MiB")
        .variable("IRONRING__WHATEVER", "1")
        .variable("IRONRING__LIMITS__IN_FLIGHT_MAX", "0")
        .flag("--set", "log.segment_byte", "8MiB");
    assert_eq!(
        case.problems(),
        [
            "IRONRING__LOG__SEGMENT_BYTE: no key has this variable | did you mean IRONRING__LOG__SEGMENT_BYTES?",
            "IRONRING__WHATEVER: no key has this variable | variables are IRONRING__SECTION__KEY; `ironring config default` lists the keys",
            "IRONRING__LIMITS__IN_FLIGHT_MAX: limits.in_flight_max is 0; the smallest allowed is 1 | allowed: a whole number from 1 to 65536",
            "--set: unknown key \"log.segment_byte\" | did you mean log.segment_bytes?",
        ]
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources =
        Sources { file: Some(PathBuf::from("/nonexistent/x.toml")), ..Sources::default() };
    assert_eq!(
        sources.load().unwrap_err().to_string(),
        "/nonexistent/x.toml: the configuration file cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn keys_that_do_not_fit_each_other_are_found_at_their_place() {
    let case = Case::new(concat!(
        "[node]\nshards = 4\ncpus = [0]\n[cluster]\npartitions = 3\n",
        "[listen]\nclients = \"0.0.0.0:7413\"\nshard_port_base = 7410\n",
        "[log]\nsegment_bytes = 4194305\ndisk_bytes_max = \"64MiB\"\n",
        "[memory]\nmax_bytes = \"256MiB\"\ncache_bytes = \"200MiB\"\n",
        "[limits]\ndeadline_default_ms = 10\ndeadline_max_ms = 5\n",
    ));
    assert_eq!(
        case.problems(),
        [
            "node.toml:5:14: cluster.partitions is 3, which is not a power of two | use 2 or 4",
            "node.toml:2:10: node.shards is 4, more than the 3 partitions there are to serve | a shard without a partition does nothing: lower node.shards or raise cluster.partitions",
            "node.toml:2:10: node.shards is 4, but node.cpus names 1 | name one CPU per shard, or leave node.shards out",
            "node.toml:10:17: log.segment_bytes is 4194305, which is not a multiple of 4096 | use 5MiB",
            "node.toml:11:18: log.disk_bytes_max is 64MiB, too little for 4 shard(s) of 7 segments of 4194305 | allow at least 117440540, or make log.segment_bytes smaller",
            "node.toml:14:15: memory.cache_bytes is 200MiB, more than half of memory.max_bytes (256MiB) | the index and requests need the rest: lower memory.cache_bytes",
            "node.toml:16:23: limits.deadline_default_ms is 10, more than limits.deadline_max_ms (5) | lower the default or raise the maximum",
            "node.toml:7:11: listen.http and listen.clients are both 127.0.0.1:7413 | give them different ports",
            "node.toml:7:11: listen.clients is 0.0.0.0:7413, which clients cannot connect to | set listen.advertise to the host name or address clients should use",
            "node.toml:8:19: the shards' ports 7410 to 7413 include the port of listen.clients (7413) | choose another listen.shard_port_base",
            "node.toml:8:19: the shards' ports 7410 to 7413 include the port of listen.peers (7412) | choose another listen.shard_port_base",
            "node.toml:8:19: the shards' ports 7410 to 7413 include the port of listen.http (7413) | choose another listen.shard_port_base",
        ]
    );
}

#[test]
fn an_address_others_can_reach_is_warned_about() {
    let case = Case::new("[listen]\nclients = \"10.0.0.1:7411\"\n");
    assert_eq!(
        case.load().config.warnings(),
        [
            "listen.clients is 10.0.0.1:7411: there is no authentication or encryption, so every host that reaches it must be trusted"
        ]
    );
}

#[test]
fn printed_configurations_read_back_as_themselves() {
    assert_eq!(Case::new(&default_file()).load().config, Config::default());
    // The same with every key uncommented.
    let uncommented: String = default_file()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let case = Case::new(&uncommented);
    assert_eq!(case.load().config, Config::default());
    assert!(KEYS.iter().all(|key| case.load().origin(key) != &Origin::Default));

    let case = Case::new("[node]\nname = \"x\"\ncpus = [1, 0]\n[log]\nsegment_bytes = 12582912\n");
    let shown = effective_file(&case.load(), true);
    assert!(shown.contains("segment_bytes = \"12MiB\""), "{shown}");
    assert!(shown.contains("node.toml:5:17"), "{shown}");
    assert_eq!(Case::new(&shown).load().config, case.load().config);
}
