package integration_test

import (
	"strings"

	"nofx.dev/gateway/api"
)

// checkpoints returns requests about checkpoints that are not there, not the caller's or not
// made yet, and edits that do not fit the one that is there.
func checkpoints(mine, theirs things) (all []bad) {
	add := func(name, request, body string, status int, code api.ProblemCode, pointer string) {
		all = append(all, bad{name, request, "", body, status, code, pointer})
	}
	run := "/api/runs/" + mine.run
	for who, id := range map[string]string{
		"nobody's": "ckpt_" + strings.Repeat("0", 31) + "1", "a neighbour's": theirs.checkpoint, "one not made yet": mine.half, "a run as": mine.run, "nonsense as": "ckpt_x",
	} {
		of := run + "/checkpoints/" + id
		add(who+" checkpoint", "GET "+of, "", 404, notFound, "")
		add(who+" checkpoint's diff", "GET "+of+"/diff", "", 404, notFound, "")
		add(who+" checkpoint's archive", "POST "+of+"/archive", "", 404, notFound, "")
		add(who+" checkpoint labelled", "PATCH "+of, `{"label":"x"}`, 404, notFound, "")
		add(who+" checkpoint held", "PATCH "+of, `{"hold":true,"reason":"x"}`, 404, notFound, "")
		against := bad{who + " checkpoint to compare with", "GET " + run + "/checkpoints/" + mine.checkpoint + "/diff?against=" + id, "", "", 404, notFound, ""}
		if strings.HasPrefix(who, "a run") || strings.HasPrefix(who, "nonsense") {
			against.status, against.code, against.pointer = 400, parameter, "/against"
		}
		all = append(all, against)
		add(who+" checkpoint to branch from", "POST "+run+"/branches", `{"checkpoint_id":"`+id+`"}`, 404, notFound, "")
		add(who+" checkpoint to see a branch from", "POST "+run+"/branches", `{"checkpoint_id":"`+id+`","dry_run":true}`, 404, notFound, "")
		add(who+" good checkpoint", "POST "+run+"/bisect", `{"command":"true","good":"`+id+`"}`, 422, field, "/good")
		add(who+" bad checkpoint", "POST "+run+"/bisect", `{"command":"true","bad":"`+id+`"}`, 422, field, "/bad")
		add(who+" base of a merge", "POST /api/runs/"+mine.one+"/merges", `{"source_run_id":"`+mine.other+`","base_checkpoint_id":"`+id+`"}`, 422, field, "/base_checkpoint_id")
	}
	add("a neighbour's run to branch", "POST /api/runs/"+theirs.run+"/branches", `{"checkpoint_id":"`+theirs.checkpoint+`"}`, 404, notFound, "")
	add("a neighbour's run to search", "POST /api/runs/"+theirs.run+"/bisect", `{"command":"true"}`, 404, notFound, "")
	add("a checkpoint of another run", "POST /api/runs/"+mine.other+"/branches", `{"checkpoint_id":"`+mine.checkpoint+`"}`, 404, notFound, "")

	branch := func(name, change string, status int, code api.ProblemCode, pointer string) {
		add("branch with "+name, "POST "+run+"/branches", `{"checkpoint_id":"`+mine.checkpoint+`",`+change+`}`, status, code, pointer)
		variant := pointer
		if variant != "" {
			variant = "/variants/1" + variant
		}
		add("variant with "+name, "POST "+run+"/branches", `{"checkpoint_id":"`+mine.checkpoint+`","variants":[{"name":"good"},{"name":"bad",`+change+`}]}`, status, code, variant)
	}
	for name, op := range map[string]string{
		"a test that fails": `{"op":"test","path":"/vars/x","value":1}`, "nothing to replace": `{"op":"replace","path":"/vars/x","value":1}`,
		"nothing to remove": `{"op":"remove","path":"/vars/x"}`, "nothing to move": `{"op":"move","from":"/vars/x","path":"/vars/y"}`,
		"no such parent": `{"op":"add","path":"/vars/x/y","value":1}`, "no object any more": `{"op":"replace","path":"/vars","value":1}`,
		"outputs of no step": `{"op":"add","path":"/steps/nothing/outputs/x","value":1}`,
	} {
		branch(name, `"state_patch":[`+op+`]`, 422, api.ProblemCodePatchFailed, "/state_patch/0")
	}
	branch("a second operation that fails", `"state_patch":[{"op":"add","path":"/vars/x","value":1},{"op":"test","path":"/vars/x","value":2}]`, 422, api.ProblemCodePatchFailed, "/state_patch/1")
	branch("a patch of a verdict", `"state_patch":[{"op":"replace","path":"/steps/unit/state","value":"succeeded"}]`, 422, field, "/state_patch/0")
	branch("a plan patch that fails", `"plan_patch":[{"op":"remove","path":"/steps/9"}]`, 422, api.ProblemCodePatchFailed, "/plan_patch/0")
	for _, path := range []string{"../x", "/x", "a/../../x", "a/./b", "a//b", "a/", "", ".", "..", ".nofx/x", "a\\u0000b", strings.Repeat("x/", 600) + "x"} {
		code, pointer := field, "/files/0/path"
		for what, edit := range map[string]string{"writes": `"content":"x"`, "deletes": `"delete":true`} {
			branch(what+" outside: "+path[:min(len(path), 20)], `"files":[{"path":"`+path+`",`+edit+`}]`, 422, code, pointer)
		}
	}
	branch("nothing to delete", `"files":[{"path":"nothing","delete":true}]`, 422, field, "/files/0/path")
	branch("a folder of a file", `"files":[{"path":"file/x","content":"x"}]`, 422, field, "/files/0/path")
	branch("a file twice", `"files":[{"path":"x","content":"x"},{"path":"x","content":"y"}]`, 422, field, "/files/1/path")
	branch("a file of no artifact", `"files":[{"path":"x","artifact_id":"art_`+strings.Repeat("0", 32)+`"}]`, 422, field, "/files/0/artifact_id")
	branch("a neighbour's artifact", `"files":[{"path":"x","artifact_id":"`+theirs.artifact+`"}]`, 422, field, "/files/0/artifact_id")
	return all
}

// merges returns requests about merges of nobody and of others, decisions about what is no
// conflict, and changes of old versions.
func merges(mine, theirs things) (all []bad) {
	add := func(name, request, headers, body string, status int, code api.ProblemCode, pointer string) {
		all = append(all, bad{name, request, headers, body, status, code, pointer})
	}
	for who, id := range map[string]string{"nobody's": "run_" + strings.Repeat("0", 31) + "1", "a neighbour's": theirs.run, "its own": mine.one, "a step as": mine.step} {
		add(who+" source", "POST /api/runs/"+mine.one+"/merges", "", `{"source_run_id":"`+id+`"}`, 422, field, "/source_run_id")
	}
	add("a neighbour's target", "POST /api/runs/"+theirs.one+"/merges", "", `{"source_run_id":"`+mine.one+`"}`, 404, notFound, "")
	for who, id := range map[string]string{"nobody's": "mrg_" + strings.Repeat("0", 31) + "1", "a neighbour's": theirs.merge, "a run as": mine.run} {
		add(who+" merge", "GET /api/merges/"+id, "", "", 404, notFound, "")
		add(who+" merge resolved", "PUT /api/merges/"+id+"/resolutions", "", `{"resolutions":[{"path":"file","take":"ours"}]}`, 404, notFound, "")
		add(who+" merge committed", "POST /api/merges/"+id+"/commit", "", "", 404, notFound, "")
		add(who+" merge abandoned", "POST /api/merges/"+id+"/abandon", "", "", 404, notFound, "")
	}
	at := "/api/merges/" + mine.merge
	resolve := func(name, resolution, pointer string) {
		add("resolution of "+name, "PUT "+at+"/resolutions", "", `{"resolutions":[{"path":"file","take":"ours"},`+resolution+`]}`, 422, field, pointer)
	}
	resolve("a path without a conflict", `{"path":"other","take":"ours"}`, "/resolutions/1/path")
	resolve("a value without a conflict", `{"pointer":"/vars/x","take":"ours"}`, "/resolutions/1/pointer")
	for _, path := range []string{"../file", "/file", "a/../file", "./file", "", ".nofx/x"} {
		resolve("the path "+path, `{"path":"`+path+`","take":"ours"}`, "/resolutions/1/path")
	}
	resolve("no pointer", `{"pointer":"vars","take":"ours"}`, "/resolutions/1/pointer")
	resolve("a neighbour's artifact", `{"path":"x","take":"artifact","artifact_id":"`+theirs.artifact+`"}`, "/resolutions/1/path")
	add("resolution by a neighbour's artifact", "PUT "+at+"/resolutions", "", `{"resolutions":[{"path":"file","take":"artifact","artifact_id":"`+theirs.artifact+`"}]}`, 422, field, "/resolutions/0/artifact_id")
	for name, request := range map[string][2]string{
		"resolution": {"PUT " + at + "/resolutions", `{"resolutions":[{"path":"file","take":"ours"}]}`}, "commit": {"POST " + at + "/commit", `{}`}, "abandonment": {"POST " + at + "/abandon", `{}`},
	} {
		for _, version := range []string{"v1", "v99999"} {
			add(name+" of "+version, request[0], `If-Match: "`+version+`"`, request[1], 412, stale, "")
		}
		add(name+" of a weak tag", request[0], `If-Match: W/"v2"`, request[1], 400, parameter, "/If-Match")
	}
	add("commit with open conflicts", "POST "+at+"/commit", "", `{}`, 409, transition, "")
	add("commit with open conflicts, of this version", "POST "+at+"/commit", `If-Match: "v2"`, `{"resume":true}`, 409, transition, "")
	return all
}
