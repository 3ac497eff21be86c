//! Peers: other programs and libraries that do the same work. None of them is needed. Each is looked for when
//! a run begins; one that is not there is reported as absent, with the reason and the remedy.

mod absent;
pub(crate) mod fio;
pub(crate) mod iceoryx2;
pub(crate) mod qemu;
pub(crate) mod vhost;

pub use absent::Absent;
pub(crate) use absent::{FoundPeer, need};
use fio::Fio;
use qemu::Qemu;

/// All that were looked for.
pub(crate) struct Peers {
    pub(crate) fio: FoundPeer<Fio>,
    /// Request-response of iceoryx2.
    pub(crate) iceoryx2: FoundPeer<()>,
    /// The storage daemon, and a driver for its vhost-user-blk.
    pub(crate) vhost: FoundPeer<Qemu>,
    /// The storage daemon's NBD server, and a fio that is its client.
    pub(crate) nbd: FoundPeer<(Qemu, Fio)>,
}

impl Peers {
    /// Looks for all of them. Starts their programs to ask them what they can do.
    pub(crate) fn find() -> Self {
        let (fio, qemu) = (Fio::find(), Qemu::find());
        Self {
            nbd: nbd(&fio, &qemu).map_err(|reason| missing("NBD (fio)", &reason)),
            fio: fio.map_err(|reason| missing("fio (libaio, io_uring)", &reason)),
            iceoryx2: iceoryx2::find()
                .map_err(|reason| missing("iceoryx2 request-response", &reason)),
            vhost: vhost::find()
                .and(qemu)
                .and_then(Qemu::with_vhost_user)
                .map_err(|reason| missing("qemu-storage-daemon over vhost-user-blk", &reason)),
        }
    }

    /// Those that are not there.
    pub(crate) fn absent(&self) -> Vec<Absent> {
        let all = [
            self.fio.as_ref().err(),
            self.iceoryx2.as_ref().err(),
            self.vhost.as_ref().err(),
            self.nbd.as_ref().err(),
        ];
        all.into_iter().flatten().cloned().collect()
    }
}

fn nbd(
    fio: &std::result::Result<Fio, String>,
    qemu: &std::result::Result<Qemu, String>,
) -> std::result::Result<(Qemu, Fio), String> {
    let fio = fio.clone()?;
    if !fio.has_nbd {
        return Err(
            "this fio has no engine nbd; install one that was built with libnbd (fio --enghelp \
             names its engines)"
                .to_owned(),
        );
    }
    Ok((qemu.clone()?, fio))
}

fn missing(name: &str, reason: &str) -> Absent {
    Absent {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::absent::cannot_run;
    use super::*;

    #[test]
    fn what_is_missing_for_nbd_is_named() {
        let qemu = Ok(Qemu {
            has_vhost_user: true,
        });
        let reason = |fio, qemu| nbd(&fio, &qemu).err().unwrap_or_default();
        let fio = |has_nbd| Ok(Fio { has_nbd });
        assert_eq!(reason(fio(true), qemu.clone()), "");
        assert!(reason(fio(false), qemu.clone()).contains("libnbd"));
        assert_eq!(reason(Err("no fio".into()), qemu), "no fio");
        assert_eq!(reason(fio(true), Err("no qemu".into())), "no qemu");
    }

    #[test]
    fn a_program_that_is_missing_is_to_be_installed() {
        let reason = |kind: ErrorKind| cannot_run("fio", &kind.into());
        let missing = "the program fio is not on the PATH; install it";
        assert_eq!(reason(ErrorKind::NotFound), missing);
        assert!(reason(ErrorKind::PermissionDenied).contains("fio cannot be run"));
    }

    #[test]
    fn a_case_says_which_peer_it_lacks() {
        let found: FoundPeer<()> = Err(missing("a peer", "it is not installed; install it"));
        let error = need(&found).expect_err("it is absent").to_string();
        assert_eq!(error, "not run: a peer is absent");
        assert!(need(&Ok(7)).is_ok());
    }

    #[test]
    fn drivers_that_are_left_out_name_the_feature() {
        for (found, is_built_in) in [
            (iceoryx2::find(), cfg!(feature = "peer-iceoryx2")),
            (vhost::find(), cfg!(feature = "peer-blkio")),
        ] {
            match found {
                Ok(()) => assert!(is_built_in),
                Err(reason) => assert!(!is_built_in && reason.contains("--features peers")),
            }
        }
    }
}
