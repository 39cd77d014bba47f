//! A mesh of real processes on loopback: a control plane, sidecars beside programs that the test plays, and what happens when parts
//! of it change, end or lie.

mod access;
mod alone;
mod crowd;
mod examples;
mod gateway;
mod life;
mod machines;
mod outages;
mod plaintext;
mod partition;
mod programs;
mod refusals;
mod stage;
mod talk;
mod transparent;
mod wiretap;
