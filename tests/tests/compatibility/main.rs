//! Every format of a pool's file that a program of this project has ever written is opened for good.
//!
//! `images` holds files that such programs have written, as text. README.md beside it says which programs, and how.
//! Each test takes every image: a file that is restored from it is used as any pool is.

#![forbid(unsafe_code)]

mod damage;
mod old_program;
mod opening;
mod restored;
mod upgrading;

// The program that makes images uses it too.
#[path = "../../examples/image_maker/image.rs"]
mod image;
