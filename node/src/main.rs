//! The `ironring` binary: server and tool.

fn main() -> std::process::ExitCode {
    ironring_node::cli::main()
}
