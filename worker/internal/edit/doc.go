// Package edit changes a workspace as a model answered.
//
// A model is shown files ([Collect]) and answers with an [Answer] in JSON
// ([Schema]): files to write, to edit by search and replace, and to delete. Nothing
// of it is believed: [Prepare] says all that is wrong, in words that the model can be
// told, and [Apply] makes the changes, all or none. All of it goes through an os.Root
// and follows no symlink.
package edit
