//! The way between homes over real sockets: who is let in, who is not, and what each is told.

mod process;
mod stage;
mod way;
