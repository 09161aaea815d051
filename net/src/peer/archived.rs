//! How the modules of versions write down their archived types: names, fields in order, and the size each
//! has on the wire. The types themselves are a version's, and frozen with it.

/// Structs with their archived forms, whose sizes are checked when this is compiled. So is that none needs
/// more alignment than a frame gives, and that none is larger than a plain body may be: items of lists are
/// smaller still.
macro_rules! archived {
    ($( $(#[$doc:meta])* $archived:ident $name:ident, $bytes:literal {
        $( $field:ident: $type:ty, )*
    } )*) => {
        $(
            $(#[$doc])*
            #[derive(rkyv::Archive, rkyv::Serialize)]
            pub struct $name { $( pub $field: $type, )* }

            const _: () = assert!(size_of::<$archived>() == $bytes);
            const _: () = assert!(
                size_of::<$archived>() <= $crate::peer::frame::PLAIN_BODY_BYTES_MAX as usize
            );
            const _: () = assert!(align_of::<$archived>() <= $crate::peer::frame::ALIGN);
        )*
    };
}

pub(super) use archived;
