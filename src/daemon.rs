//! Starts the actors in order and stops them in reverse.
