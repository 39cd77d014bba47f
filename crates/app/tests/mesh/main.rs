//! A mesh of real processes on loopback: a control plane, sidecars beside programs that the test plays, and what happens when parts
//! of it change, end or lie.

mod access;
mod alone;
mod compose;
mod crowd;
mod demand;
mod embedded;
mod examples;
mod gateway;
mod instances;
mod learned;
mod life;
mod machines;
mod mixed;
mod outages;
mod partition;
mod plaintext;
mod programs;
mod proxied;
mod public;
mod published;
mod rebuilt;
mod refusals;
mod registered;
mod roots;
mod seen;
mod shares;
mod spans;
mod stage;
mod starts;
mod streams;
mod strict;
mod talk;
mod transparent;
mod wiretap;
mod zones;
