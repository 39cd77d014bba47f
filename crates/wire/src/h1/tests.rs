//! Tests of the codec as a whole: tables of attacks, splits at every byte, round trips.
