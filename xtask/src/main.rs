//! The project's own commands.

mod ebpf;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["setup", "--ebpf"] => ebpf::setup_ebpf(),
        ["build-ebpf"] => ebpf::build_ebpf(false),
        ["build-ebpf", "--check"] => ebpf::build_ebpf(true),
        _ => anyhow::bail!("setup --ebpf | build-ebpf [--check]"),
    }
}
