"use strict";
// Point at a token: the tiles it sees. Point at a tile: the tokens that see it. Texts go in as text, never as markup.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const line = document.getElementById("line");
  const box = Object.assign(document.createElement("div"), { className: "box" });
  const marks = ["cross", "decoder", "own", "here"];
  let clear = () => {};

  function watch(section, row) {
    const tokens = [...section.querySelectorAll(".tokens b")];
    const tiles = [...section.querySelectorAll(".tile")];
    const places = new Map(tokens.map((token, place) => [token, place]));
    const perTile = page.side * page.side;
    const tileOf = (place) => Math.floor(row.slots[place] / perTile);

    function mark(element, name) {
      element.classList.add(name);
      section.classList.add("pointed");
    }

    function reset() {
      section.classList.remove("pointed");
      for (const element of section.querySelectorAll(".cross, .decoder, .own, .here")) element.classList.remove(...marks);
      box.remove();
      line.textContent = line.dataset.rest;
    }

    function showToken(place) {
      mark(tokens[place], "here");
      const [cross, decoder] = row.sets[row.sees[place]];
      for (const tile of cross) mark(tiles[tile], "cross");
      for (const tile of decoder) mark(tiles[tile], "decoder");
      if (row.slots[place] >= 0) showCell(place);
      line.textContent = tell(place, cross, decoder);
    }

    function showCell(place) {
      const cell = row.slots[place] % perTile, percent = 100 / page.side;
      mark(tiles[tileOf(place)], "own");
      box.style.cssText = `left:${(cell % page.side) * percent}%;top:${Math.floor(cell / page.side) * percent}%;` +
        `width:${percent}%;height:${percent}%`;
      tiles[tileOf(place)].querySelector(".frame").append(box);
    }

    function tell(place, cross, decoder) {
      const names = (list) => list.map((tile) => row.tags[tile]).join(" ");
      const parts = [`place ${place}, position ${row.positions[place]} of its sample`];
      parts.push(page.dense ? `asks for label ${row.ids[place]}` : `id ${row.ids[place]}`);
      if (row.slots[place] >= 0) {
        const cell = row.slots[place] % perTile;
        const at = `row ${1 + Math.floor(cell / page.side)}, column ${1 + (cell % page.side)}`;
        parts.push(`image token: ${row.tags[tileOf(place)]}, ${at}`);
      }
      if (row.tagTile[place]) parts.push(`tag of ${row.tags[row.tagTile[place] - 1]}`);
      if (cross.length) parts.push(`cross-attention reads ${names(cross)}`);
      if (decoder.length) parts.push(`before it in the decoder ${names(decoder)}`);
      if (!cross.length && !decoder.length && row.slots[place] < 0) parts.push("sees no tile");
      const target = row.predicts[place];
      if (target) parts.push(`trained to predict “${target[0]}”${target[1] ? ` (${target[1]})` : ""}`);
      return parts.join("  ·  ");
    }

    function showTile(tile) {
      mark(tiles[tile], "here");
      const counts = [0, 0, 0];
      tokens.forEach((token, place) => {
        const [cross, decoder] = row.sets[row.sees[place]];
        const found = [cross.includes(tile), decoder.includes(tile), row.slots[place] >= 0 && tileOf(place) === tile];
        found.forEach((yes, i) => yes && (mark(token, marks[i]), counts[i]++));
      });
      const parts = [row.tags[tile]];
      if (page.dense) parts.push(`${counts[2]} labels`);
      if (counts[0]) parts.push(`read through cross-attention by ${counts[0]} tokens`);
      if (counts[2] && !page.dense) parts.push(`${counts[2]} image tokens in the decoder`);
      if (counts[1]) parts.push(`before ${counts[1]} tokens of the sample`);
      line.textContent = parts.join("  ·  ");
    }

    section.addEventListener("mouseover", (event) => {
      clear();
      clear = reset;
      const token = event.target.closest(".tokens b"), tile = event.target.closest(".tile");
      if (token) showToken(places.get(token));
      else if (tile) showTile(tiles.indexOf(tile));
    });
    section.addEventListener("mouseleave", reset);
  }

  document.querySelectorAll("section.row").forEach((section, i) => watch(section, page.rows[i]));
})();
