//! Runs one hot path so many times and nothing else, for callgrind to count:
//! `benches/instructions.sh` runs each path twice and takes the difference, which leaves the
//! instructions of the path alone.

mod paths;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let all = paths::all();
    match arguments.as_slice() {
        [name, runs] => {
            let runs: u64 = runs.parse().expect("the second argument is a number of runs");
            let mut found = all.into_iter().filter(|path| path.name == name);
            let mut path = found.next().expect("the first argument is the name of a path");
            (0..runs).for_each(|_| (path.run)());
        }
        // Without arguments, what there is: name and operations of one run.
        _ => all.iter().for_each(|path| println!("{} {}", path.name, path.operations)),
    }
}
