//! The names on a disk: which directory holds what, as programs see it and as the disk knows it.
//!
//! A change of names is seen at once and durable when its directory was synced since (a rename between
//! two directories: both of them). What is not durable when the power fails is kept or undone, each
//! change on its own, whatever their order; a rename as a whole, so that its target shows the old file
//! or the new one. A directory whose own name is lost takes with it all that was in it.

use crate::driver::EntryKind;
use crate::rng::Rng;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Component, Path};

/// What a name stands for. Nothing has two names: there are no links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Node {
    /// An index into the files of the disk.
    File(usize),
    Directory(u32),
}

const ROOT: u32 = 0;

/// A directory and a name in it.
type Name = (u32, OsString);
type Tree = BTreeMap<Name, Node>;

/// See the module page.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: Tree,
    durable: Tree,
    /// Done and not durable, in the order in which they were done.
    pending: Vec<Change>,
    changes_done: u64,
    directories_made: u32,
}

/// A name that was made (`to`), removed (`from`), or moved (both).
#[derive(Debug)]
struct Change {
    number: u64,
    node: Node,
    from: Option<Name>,
    to: Option<Name>,
    /// The directories whose syncs it awaits.
    awaits: Vec<u32>,
}

/// Which of the two trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    Seen,
    Durable,
}

impl Names {
    /// What a path names.
    pub fn find(&self, view: View, path: &Path) -> Result<Node, Errno> {
        let tree = match view {
            View::Seen => &self.seen,
            View::Durable => &self.durable,
        };
        let mut node = Node::Directory(ROOT);
        for name in parts(path)? {
            let Node::Directory(directory) = node else { return Err(Errno::NOTDIR) };
            node = *tree.get(&(directory, name.to_owned())).ok_or(Errno::NOENT)?;
        }
        Ok(node)
    }

    /// The file that a path names.
    pub fn find_file(&self, path: &Path) -> Result<usize, Errno> {
        match self.find(View::Seen, path)? {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(Errno::ISDIR),
        }
    }

    pub fn find_directory(&self, path: &Path) -> Result<u32, Errno> {
        match self.find(View::Seen, path)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(Errno::NOTDIR),
        }
    }

    /// What a directory holds, by name.
    pub fn list(&self, directory: u32) -> impl Iterator<Item = (&OsStr, Node)> {
        let from = (directory, OsString::new());
        let entries = self.seen.range(from..).take_while(move |((of, _), _)| *of == directory);
        entries.map(|((_, name), node)| (name.as_os_str(), *node))
    }

    /// Names a new file.
    pub fn add_file(&mut self, path: &Path, file: usize) -> Result<(), Errno> {
        let name = self.vacant(path)?;
        self.change(Node::File(file), None, Some(name));
        Ok(())
    }

    /// Makes a directory, and those above it as far as they are missing; says how many.
    pub fn add_directories(&mut self, path: &Path) -> Result<u32, Errno> {
        let (mut directory, mut made) = (ROOT, 0);
        let mut names = parts(path)?.peekable();
        while let Some(name) = names.next() {
            let name = (directory, name.to_owned());
            directory = match self.seen.get(&name) {
                Some(Node::Directory(there)) => *there,
                Some(Node::File(_)) if names.peek().is_some() => return Err(Errno::NOTDIR),
                Some(Node::File(_)) => return Err(Errno::EXIST),
                None => {
                    made += 1;
                    self.directories_made += 1;
                    let new = self.directories_made;
                    self.change(Node::Directory(new), None, Some(name));
                    new
                }
            };
        }
        Ok(made)
    }

    /// Moves a name, in place of what had the new one.
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let node = self.find(View::Seen, from)?;
        if to.starts_with(from) && to != from {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.place(from)?, self.place(to)?);
        match (node, self.seen.get(&to)) {
            (_, Some(there)) if *there == node => return Ok(()),
            (_, None) | (Node::File(_), Some(Node::File(_))) => {}
            (Node::File(_), Some(Node::Directory(_))) => return Err(Errno::ISDIR),
            (Node::Directory(_), Some(Node::File(_))) => return Err(Errno::NOTDIR),
            (Node::Directory(_), Some(Node::Directory(there))) => self.check_empty(*there)?,
        }
        self.change(node, Some(from), Some(to));
        Ok(())
    }

    pub fn remove_file(&mut self, path: &Path) -> Result<usize, Errno> {
        let file = self.find_file(path)?;
        let name = self.place(path)?;
        self.change(Node::File(file), Some(name), None);
        Ok(file)
    }

    pub fn remove_directory(&mut self, path: &Path) -> Result<(), Errno> {
        let directory = self.find_directory(path)?;
        self.check_empty(directory)?;
        let name = self.place(path)?;
        self.change(Node::Directory(directory), Some(name), None);
        Ok(())
    }

    /// What a sync that is issued now covers.
    pub fn changes_done(&self) -> u64 {
        self.changes_done
    }

    /// Makes durable the changes of a directory up to a number.
    pub fn sync(&mut self, directory: u32, up_to: u64) {
        for change in self.pending.iter_mut().filter(|change| change.number <= up_to) {
            change.awaits.retain(|awaited| *awaited != directory);
        }
        // What came before on the same name comes before on the disk: a name that was reused is not
        // durable while the rename that made it free could still be undone.
        let mut is_due: Vec<bool> = self.pending.iter().map(|c| c.awaits.is_empty()).collect();
        for later in
            (0..self.pending.len()).rev().filter(|later| is_due[*later]).collect::<Vec<_>>()
        {
            self.require_earlier(later, &mut is_due);
        }
        let mut is_due = is_due.into_iter();
        let (due, left) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|_| is_due.next() == Some(true));
        self.pending = left;
        let due: Vec<Change> = due;
        due.iter().for_each(|change| change.apply(&mut self.durable));
    }

    /// A sync of a directory failed: what it covered is kept or undone on the disk, no later sync makes
    /// good for it, and programs go on seeing it. Answers which changes were kept.
    pub fn fail_sync(&mut self, directory: u32, up_to: u64, rng: &mut Rng) -> Vec<(String, bool)> {
        let covered =
            |change: &Change| change.number <= up_to && change.awaits.contains(&directory);
        let pending = std::mem::take(&mut self.pending);
        let (covered, left) = pending.into_iter().partition(covered);
        self.pending = left;
        self.draw(covered, rng)
    }

    /// The power fails. Answers which changes were kept.
    pub fn lose_power(&mut self, rng: &mut Rng) -> Vec<(String, bool)> {
        let pending = std::mem::take(&mut self.pending);
        let kept = self.draw(pending, rng);
        // What a restarted machine finds is on the disk, or it would not be found.
        self.seen = self.durable.clone();
        kept
    }

    /// Files that have a name, by program or disk, or might have one after a crash.
    pub fn files(&self) -> impl Iterator<Item = usize> {
        let nodes = self.seen.values().chain(self.durable.values());
        let nodes = nodes.chain(self.pending.iter().map(|change| &change.node));
        nodes.filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Directory(_) => None,
        })
    }

    /// Files that programs see.
    pub fn seen_files(&self) -> impl Iterator<Item = usize> {
        self.seen.values().filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Directory(_) => None,
        })
    }

    fn draw(&mut self, changes: Vec<Change>, rng: &mut Rng) -> Vec<(String, bool)> {
        let mut draw = |change: Change| {
            let is_kept = rng.chance(0.5);
            if is_kept {
                change.apply(&mut self.durable);
            }
            (change.to_string(), is_kept)
        };
        changes.into_iter().map(&mut draw).collect()
    }

    /// Marks as due what was done on a name before the change `later` was.
    fn require_earlier(&self, later: usize, is_due: &mut [bool]) {
        for earlier in (0..later).rev() {
            if !is_due[earlier] && self.pending[earlier].touches(&self.pending[later]) {
                is_due[earlier] = true;
                self.require_earlier(earlier, is_due);
            }
        }
    }

    fn change(&mut self, node: Node, from: Option<Name>, to: Option<Name>) {
        self.changes_done += 1;
        let names = [&from, &to];
        let mut awaits: Vec<u32> = names.into_iter().flatten().map(|(of, _)| *of).collect();
        awaits.dedup();
        let change = Change { number: self.changes_done, node, from, to, awaits };
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    /// A name that is not taken, in a directory that exists.
    fn vacant(&self, path: &Path) -> Result<Name, Errno> {
        let name = self.place(path)?;
        if self.seen.contains_key(&name) { Err(Errno::EXIST) } else { Ok(name) }
    }

    /// The directory of a path, which exists, and the name in it.
    fn place(&self, path: &Path) -> Result<Name, Errno> {
        let name = path.file_name().ok_or(Errno::BUSY)?;
        let directory = self.find_directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok((directory, name.to_owned()))
    }

    fn check_empty(&self, directory: u32) -> Result<(), Errno> {
        if self.list(directory).next().is_none() { Ok(()) } else { Err(Errno::NOTEMPTY) }
    }
}

impl Change {
    /// Does it to a tree in which what came before it may not have been done.
    fn apply(&self, tree: &mut Tree) {
        match (&self.from, &self.to) {
            (_, Some(to)) => {
                tree.retain(|_, node| *node != self.node);
                tree.insert(to.clone(), self.node);
            }
            (Some(from), None) if tree.get(from) == Some(&self.node) => {
                tree.remove(from);
            }
            _ => {}
        }
    }

    fn touches(&self, other: &Change) -> bool {
        let names = |change: &Change| [change.from.clone(), change.to.clone()];
        self.node == other.node
            || names(self)
                .iter()
                .flatten()
                .any(|name| names(other).iter().flatten().any(|o| o == name))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |name: &Option<Name>| match name {
            Some((directory, name)) => format!("{directory}/{}", name.display()),
            None => "nothing".to_owned(),
        };
        write!(f, "{} becomes {}", show(&self.from), show(&self.to))
    }
}

impl Node {
    pub fn kind(self) -> EntryKind {
        match self {
            Node::File(_) => EntryKind::File,
            Node::Directory(_) => EntryKind::Directory,
        }
    }
}

/// The names of a path, from the root on.
fn parts(path: &Path) -> Result<impl Iterator<Item = &OsStr>, Errno> {
    let is_plain =
        |part: Component<'_>| !matches!(part, Component::ParentDir | Component::Prefix(_));
    if !path.has_root() || !path.components().all(is_plain) {
        return Err(Errno::INVAL);
    }
    Ok(path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    }))
}
